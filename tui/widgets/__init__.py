"""One file per widget; drawing is a pure function apart from behaviour."""
