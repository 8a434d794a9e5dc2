"""Processes that benchmarks start: stubs on the far side of what is measured, and the load on the near side."""
