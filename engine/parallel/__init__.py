"""Parallelism applied to a plain model from outside: one mesh, one file per kind of parallelism."""
