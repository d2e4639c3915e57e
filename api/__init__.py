"""The HTTP face and the command door."""
