"""A child that never gets ready."""

import sys

print("something is missing", file=sys.stderr)
sys.exit(3)
