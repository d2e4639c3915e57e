"""Queries that are held open and answered again when their result changes."""
