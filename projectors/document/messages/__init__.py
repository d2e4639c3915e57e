"""Messages of a document: published, retained, pruned."""
