"""The words that the engine and everything in front of it share.

Standard library and msgspec only: importing this package is cheap, and so is everything that is
built on it alone.
"""
