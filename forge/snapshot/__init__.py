"""Snapshots of folders: reading them, comparing them, and bringing them back."""
