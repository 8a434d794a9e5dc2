"""A child that is ready at once and stays."""

import signal
import sys

print("a word before", flush=True)
print(f"ready {sys.argv[1]}", flush=True)
signal.pause()
