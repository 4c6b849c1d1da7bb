"""What is in this machine and how busy it is, one file per source."""
