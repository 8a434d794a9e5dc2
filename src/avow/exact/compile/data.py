"""Data to calibrate and compare with: NumPy files, never pickled.

`.npz`: an array for each input, samples (or the steps of one sequence) along the first axis. `.npy`: the same, for a model of one input.
Lengths of several arrays agree.
"""

import zipfile
from pathlib import Path

import numpy as np

from avow.errors import TooLarge
from avow.exact.compile.calibrate import Sample
from avow.exact.compile.errors import CannotCompile
from avow.exact.compile.runtime import Array

MAX_DATA = 1 << 32


def read_data(path: Path, inputs: list[str]) -> list[Sample]:
    """The samples of a file for these inputs. Raises TooLarge, CannotCompile."""
    if path.stat().st_size > MAX_DATA:
        raise TooLarge("the data are too large", size=path.stat().st_size, limit=MAX_DATA)
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays: dict[str, Array] = {inputs[0]: loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, IndexError) as error:
        raise CannotCompile("the data are no .npy or .npz file of arrays", file=path.name) from error
    missing = [name for name in inputs if name not in arrays]
    if missing:
        raise CannotCompile("the data lack an input", input=missing[0][:96])
    lengths = {len(arrays[name]) if arrays[name].ndim else 0 for name in inputs}
    if len(lengths) != 1 or 0 in lengths:
        raise CannotCompile("the inputs' data have no samples, or different numbers of them")
    return [{name: arrays[name][at] for name in inputs} for at in range(lengths.pop())]
