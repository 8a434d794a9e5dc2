"""The folder in which Avow keeps what is the user's own: pinned trust, keys, receipts, programs, a local network's state.

`AVOW_HOME` names it, else it is `.avow` in the user's home folder. Files that hold secrets are written whole, mode 0600.
"""

import os
import tempfile
from pathlib import Path

VARIABLE = "AVOW_HOME"


def home_folder(explicit: str | os.PathLike[str] | None = None) -> Path:
    """The folder in force: `explicit`, else $AVOW_HOME, else ~/.avow. It need not exist yet."""
    chosen = explicit or os.environ.get(VARIABLE)
    return Path(chosen).expanduser() if chosen else Path.home() / ".avow"


def private_folder(path: Path) -> Path:
    """Make `path`, readable by its owner alone."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def write_private(path: Path, data: bytes) -> None:
    """Write a file that its owner alone may read, atomically: there is the old file or the new one, never a part."""
    private_folder(path.parent)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mkstemp creates with mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
