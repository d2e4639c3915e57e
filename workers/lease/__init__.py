"""The writer lease of a replica prefix: one node at a time writes there."""
