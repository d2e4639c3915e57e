"""Who can read the archive: looked at, proved, and changed."""
