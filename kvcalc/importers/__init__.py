"""Readers of the files people have: Hugging Face config.json (and, beside it, other checkpoint headers)."""
