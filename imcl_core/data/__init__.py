"""Data sets, where they come from, and their batches."""
