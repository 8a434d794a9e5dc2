"""Exact programs: one meaning in integers for a model, identical on every machine (docs/exact.md)."""
