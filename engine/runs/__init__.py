"""Runs on disk and their processes: start, detach, follow, control, resume."""
