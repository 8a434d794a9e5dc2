"""Receipts kept on this machine: HOME/receipts/<id>.json, readable by their owner alone, since they may hold prompt and answer."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from avow.errors import AvowError, InputError, NotFound
from avow.home import write_private
from avow.receipt.receipt import MAX_RECEIPT, Receipt

FOLDER = "receipts"
_ID = re.compile(r"[0-9a-f]{4,64}")


class SavedReceipts:
    """The receipts under one HOME."""

    def __init__(self, home: Path) -> None:
        self.folder = home / FOLDER

    def save(self, receipt: Receipt) -> Path:
        """Keep `receipt`; one with the same id is replaced, and keeps its place among the others. The file's path."""
        path = self.folder / f"{receipt.id}.json"
        before = path.stat() if path.exists() else None
        write_private(path, receipt.to_json())
        if before is not None:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        return path

    def merge(self, receipt: Receipt) -> Path:
        """Keep `receipt` as it came from the network; the opening of one that is kept here stays. The file's path."""
        try:
            kept = self.load(receipt.id)
        except AvowError:
            return self.save(receipt)
        if kept.opening is None or receipt.opening is not None:
            return self.save(receipt)
        return self.save(kept if receipt.settlement is None else kept.with_settlement(receipt.settlement))

    def find(self, prefix: str) -> Path:
        """The file of the one receipt whose id begins so. Raises InputError (no id, or several begin so) or NotFound."""
        if not _ID.fullmatch(prefix):
            raise InputError("a receipt's id is 64 hex digits; its first 4 or more will do")
        found = sorted(self.folder.glob(f"{prefix}*.json"))
        if not found:
            raise NotFound(f"no receipt {prefix} is kept here", hint="`avow receipts list` shows those that are")
        if len(found) > 1:
            raise InputError(f"{len(found)} receipts begin with {prefix}", hint="give more digits")
        return found[0]

    def load(self, prefix: str) -> Receipt:
        """The receipt whose id begins so. Raises what `find` and Receipt.load raise."""
        return Receipt.load(read_limited(self.find(prefix)))

    def newest_first(self) -> Iterator[tuple[Path, Receipt]]:
        """All of them that can be read, by the time when they were first saved."""
        for path in sorted(self.folder.glob("*.json"), key=lambda item: item.stat().st_mtime, reverse=True):
            try:
                yield path, Receipt.load(read_limited(path))
            except AvowError:
                continue


def read_limited(path: Path, limit: int = 2 * MAX_RECEIPT) -> bytes:
    """A file's bytes, at most one more than `limit`. Raises InputError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
