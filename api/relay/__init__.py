"""The stream relay: two requests that name the same channel are connected, and nothing of it is stored."""
