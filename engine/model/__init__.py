"""The networks, and their way from and to Hugging Face folders."""
