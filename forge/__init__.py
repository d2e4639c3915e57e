"""What a person touches: CLI, client, local stack, and the wiring of a node."""
