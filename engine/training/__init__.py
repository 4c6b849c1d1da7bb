"""The loop: optimise, evaluate, checkpoint, and say so in events."""
