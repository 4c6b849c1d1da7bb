"""From text to deterministic batches of tokens."""
