"""Reads beside the writer: pooled connections, whose turn it is, and streams of rows."""
