"""From bytes to decisions: what a GPU has left for the cache, and what fits in it."""
