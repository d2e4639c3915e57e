"""What documents are compared with, each started and spoken to in its own way, and one load for all of them."""
