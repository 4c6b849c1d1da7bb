"""The engine: plans, trains and records. A library without a screen."""
