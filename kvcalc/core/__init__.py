"""The pure core: components and growth laws, the model, the cache plan and its inverse (standard library only)."""
