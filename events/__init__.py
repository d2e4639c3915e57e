"""The log: records appended to and read from JetStream, and payload bytes beside it."""
