"""The tokens that are no text."""

EOS = "<eos>"
"""Separates documents: appended to each."""
EOS_NAMES = (EOS, "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos_token>", "<|eos|>", "[EOS]", "[SEP]")
"""What given tokenizers call it, the most telling first."""
UNKNOWN = "<unk>"
