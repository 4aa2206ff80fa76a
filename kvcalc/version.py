"""The version, alone so that everything may import it. A tag is a version."""

__version__ = "0.1.0"
