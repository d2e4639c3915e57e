"""Generations: immutable copies of projections in the archive, each at an exact position."""
