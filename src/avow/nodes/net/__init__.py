"""Networks of several validators: made in folders, joined, and run on one machine for development."""
