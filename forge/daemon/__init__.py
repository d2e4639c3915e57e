"""`forge replicate daemon`: a machine that only streams its own databases into an object store."""
