"""The archiver: a follower of the whole log that keeps it in an object store."""
