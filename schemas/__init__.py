"""What things are called and look like; imports nothing of ours."""
