"""What the sub-commands of ``traindeck`` do, one file per group; :mod:`tui.cli` only declares them."""
