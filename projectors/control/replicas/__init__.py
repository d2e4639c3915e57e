"""Replicas of documents: where they stand, in which state they are, and what is decided about them."""
