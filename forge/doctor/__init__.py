"""Checks of a machine and of the node on it: what was seen, what is needed, what to do."""
