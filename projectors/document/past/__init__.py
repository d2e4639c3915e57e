"""Documents as they were: copies at a moment, and clones made of them."""
