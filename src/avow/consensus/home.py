"""What a validator keeps in its folder: its key, and a lock that keeps a second process out.

Rules:
1. The key is 32 bytes (an Ed25519 seed) in a file that only its owner may read, written once and never replaced.
2. Whoever runs the chain holds an exclusive lock on a file beside it; the kernel frees it when the process ends, however.
"""

import fcntl
import os
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avow.consensus.errors import AlreadyRunning, NotTheValidator

SEED_BYTES = 32


def load_or_create_key(path: Path) -> Ed25519PrivateKey:
    """The validator's key; made on first use, durable before it is returned. Raises NotTheValidator for a damaged file."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        seed = path.read_bytes()
        if len(seed) != SEED_BYTES:
            raise NotTheValidator("the validator's key file is damaged", file=path.name) from None
        return Ed25519PrivateKey.from_private_bytes(seed)
    key = Ed25519PrivateKey.generate()
    with os.fdopen(descriptor, "wb") as file:
        file.write(key.private_bytes_raw())
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(path.parent)
    return key


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Lock:
    """Rule 2. Held from construction until `release` or the end of the process."""

    def __init__(self, path: Path) -> None:
        """Raises AlreadyRunning."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise AlreadyRunning("another process runs this chain", file=path.name) from None

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
