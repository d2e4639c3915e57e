"""The local stack: nats-server, SeaweedFS and the built-in worker as supervised children of the node."""
