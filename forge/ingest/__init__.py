"""`forge vector ingest`: find files, hash them, upload what is missing."""
