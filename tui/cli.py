"""Entry point of the ``traindeck`` command: the app when nothing is asked for, else a sub-command."""

# ruff: noqa: PLC0415 (opening the app pays for no command, and a command for no app)
from __future__ import annotations

import os
import sys


def main() -> None:
    """Run what the command line says. Ends the process with one of the exit codes that ``--help`` lists."""
    # A stream that was closed (`>&-`) is missing: what it would have got is dropped, and nowhere else to be seen.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open to the end
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open to the end
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    if len(sys.argv) > 1:
        from tui.cli_commands import app

        app(prog_name="traindeck")
        return
    from tui.commands.opening import open_app
    from tui.commands.output import reporting

    with reporting(as_json=False):
        open_app()


if __name__ == "__main__":
    main()
