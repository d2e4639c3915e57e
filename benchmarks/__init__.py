"""Benchmarks: each prints and stores ratios within one run, never a bound that a test enforces."""
