"""Changes made in a copy, taken over."""
