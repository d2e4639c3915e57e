"""Keeps the server's log small: what is archived, covered by a generation and read by everybody may leave it."""
