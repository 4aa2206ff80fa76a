"""kvcalc: the exact KV-cache memory calculator for LLM serving."""

__version__ = "0.1.0"
