"""Everything that a person touches: the ``traindeck`` command and the app."""
