"""The version, in a module that imports nothing, so that `memlaw --version` is instant."""

__version__ = "0.1.0"
