"""Followers: what happens because of the log, outside the request path."""
