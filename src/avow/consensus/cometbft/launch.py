"""Run a program that ends with the process that started it: `python -I -S launch.py PARENT PROGRAM ARGUMENTS…`.

CometBFT can hang for ever when its application dies, holding its database and still answering status calls. On Linux the kernel
kills it at the moment its parent is gone, however that went (prctl(2), PR_SET_PDEATHSIG); it recovers from that as from any
kill. Elsewhere the next start ends it by the process id it left (process.py). Imports nothing of avow: it starts in milliseconds.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(1)
    os.execv(program, sys.argv[2:])  # noqa: S606


if __name__ == "__main__":
    main()
