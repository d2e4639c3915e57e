"""Webhooks that a document receives."""
