"""The control plane: the registry of documents, tokens, and the audit of both."""
