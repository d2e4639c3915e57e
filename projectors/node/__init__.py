"""The node domain: snapshots of folders, and what is kept of their content."""
