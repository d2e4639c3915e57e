"""What is in the object store, brought back: compared with what is here, and never over anything newer."""
