"""Decisions and folds: how commands become events and events become SQLite projections."""
