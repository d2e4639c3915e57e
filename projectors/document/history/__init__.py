"""The history of a document as others see it: its changes, its records, and snapshots."""
