"""The built-in embedding workers."""
