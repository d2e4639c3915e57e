"""The vector domain: uploads, jobs and embeddings."""
