"""What an npy file says of itself in its first bytes."""

from __future__ import annotations

import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class NpyHeader:
    """Shape, type and order of the array in a file, and the byte it begins at."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool
    offset: int

    @property
    def file_bytes(self) -> int:
        """The length that the whole file must have."""
        return self.offset + int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def read_header(path: Path) -> NpyHeader:
    """The header of the npy file `path`, which need not be whole behind it.

    Raises:
        ValueError: there is none.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        try:
            shape, fortran_order, dtype = read(file)
        except (SyntaxError, TypeError, tokenize.TokenError) as error:  # NumPy evaluates it as Python
            raise ValueError("its header cannot be read") from error
        return NpyHeader(shape, dtype, fortran_order, file.tell())
