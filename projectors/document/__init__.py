"""Documents: arbitrary SQL whose effects, not statements, go into the log."""
