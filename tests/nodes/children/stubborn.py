"""A child that does not stop when it is asked to."""

import signal
import time

signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready stubborn", flush=True)
while True:
    time.sleep(1)
