"""Arrays that are computed once, stored in a file, and memory-mapped from then on."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from datamodules.files.atomic import reserve_space
from datamodules.files.building import REMEDY, make_once
from datamodules.files.checksums import append_checksums, check_content, trailer_bytes
from datamodules.usage_error import UsageError

Array = npt.NDArray[Any]
_ALIGNMENT_BYTES = 64


class ArrayKind(NamedTuple):
    """Shape and type of an array."""

    shape: tuple[int, ...]
    dtype: npt.DTypeLike


def stored_array(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike, fill: Callable[[Array], None]) -> Array:
    """Maps a stored array into memory, read-only; makes and stores it first if the file does not exist.

    Args:
        path: File that ends in ``.npy``; its name must determine its content.
        shape: Shape of the array.
        dtype: Type of the array.
        fill: Writes the content in place.

    Raises:
        UsageError: If the disk has too little space, or the file is damaged.
    """
    return stored_arrays(path, [ArrayKind(shape, dtype)], lambda arrays: fill(arrays[0]))[0]


def stored_arrays(path: Path, kinds: Sequence[ArrayKind], fill: Callable[[list[Array]], None]) -> list[Array]:
    """Works like :func:`stored_array` for several arrays in one file.

    The file holds one ``.npy`` after the other, each at a multiple of 64 bytes, then checksums. ``np.load`` reads the
    first. Space is reserved before anything is computed. A process that is killed meanwhile leaves nothing at ``path``.

    Args:
        path: File that ends in ``.npy``; its name must determine its content.
        kinds: Shapes and types of the arrays.
        fill: Writes the content of all arrays in place.

    Raises:
        UsageError: If the disk has too little space, or the file is damaged.
    """
    sections, size = _lay_out(kinds)

    def make(temporary: Path) -> None:
        reserve_space(temporary, size + trailer_bytes(size), path, REMEDY)
        _write_headers(temporary, sections)
        arrays = [section.map(temporary, 'r+') for section in sections]
        fill(arrays)
        for array in arrays:
            if isinstance(array, np.memmap):
                array.flush()
        append_checksums(temporary, size)

    make_once(path, make)
    _check_arrays(path, sections, size)
    return [section.map(path, 'r') for section in sections]


class _Section(NamedTuple):
    """An array's part of the file: its header, and where the header starts."""

    kind: ArrayKind
    start: int
    header: bytes

    def map(self, path: Path, mode: Any) -> Array:
        if 0 in self.kind.shape:  # nothing to map
            return np.empty(self.kind.shape, self.kind.dtype)
        offset = self.start + len(self.header)
        try:
            return np.memmap(path, self.kind.dtype, mode, offset, self.kind.shape)
        except OSError as error:  # some network and shared folders
            raise UsageError(f'{path} cannot be mapped into memory ({error.strerror}): {REMEDY}.') from error


def _lay_out(kinds: Sequence[ArrayKind]) -> tuple[list[_Section], int]:
    """Sections of the file, and its size without checksums."""
    sections, end = [], 0
    for kind in kinds:
        dtype = np.dtype(kind.dtype)
        header = io.BytesIO()
        fields = {'descr': np.lib.format.dtype_to_descr(dtype), 'fortran_order': False, 'shape': kind.shape}
        np.lib.format.write_array_header_1_0(header, fields)
        start = -(-end // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        sections.append(_Section(kind, start, header.getvalue()))
        end = start + len(header.getvalue()) + int(np.prod(kind.shape, dtype=np.int64)) * dtype.itemsize
    return sections, end


def _write_headers(path: Path, sections: Sequence[_Section]) -> None:
    with path.open('r+b') as file:
        for section in sections:
            file.seek(section.start)
            file.write(section.header)


def _check_arrays(path: Path, sections: Sequence[_Section], size: int) -> None:
    matches = check_content(path) == size
    with path.open('rb') as file:
        for section in sections:
            file.seek(section.start)
            matches = matches and file.read(len(section.header)) == section.header
    if not matches:
        raise UsageError(f'{path} holds arrays of unexpected shapes: delete it, and it will be made again.')
