"""Which files are inside a folder after links are followed, so that a list cannot name files elsewhere."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import numpy as np

_MAX_PATH_BYTES = 4096  # PATH_MAX of Linux; resolving a longer one would take time that grows with its square


def real_path(path: str | Path) -> str:
    """Follows all links of a path, whether the file exists or not.

    Raises:
        OSError: If the path is too long, or a chain of links.
        ValueError: If it contains a null character or a lone surrogate.
    """
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    try:
        return os.path.realpath(path)
    except RecursionError as error:  # in Python below 3.14, from some hundred links on; the system follows 40
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from error


def is_inside(real: str, folder: str) -> bool:
    """Whether a real path is inside a folder, which is a real path too."""
    return real.startswith(os.path.join(folder, ''))


def are_inside(root: Path, references: Iterable[str], folder: str) -> np.ndarray:
    """Tells for each reference whether its file is inside a folder after links are followed.

    Looks into every folder once instead of at every file, so a million references take about a second. A path that
    cannot be a file counts as inside: opening it fails.

    Args:
        root: What references are relative to.
        references: Paths of files, relative or absolute.
        folder: Real path of the folder.

    Returns:
        Bool (N,).
    """

    @cache
    def look_into(parent: str) -> tuple[bool, frozenset[str] | None]:
        parent = os.path.join(root, parent)
        return _resolves_into(parent, folder, itself=True), _list_links(parent)

    def check(reference: str) -> bool:
        parent, name = os.path.split(reference)
        inside, links = look_into(parent)
        if links is None or name in links or name in ('', '.', '..'):
            return _resolves_into(os.path.join(root, reference), folder)
        return inside

    return np.fromiter((check(reference) for reference in references), bool)


def link_follower(root: Path) -> Callable[[str], str]:
    """Returns a function that follows all links of a reference, which is a path relative to a root or absolute.

    It looks into every folder once instead of at every file, like :func:`are_inside`. It returns the real path, or the
    path as it is if that cannot be resolved.
    """

    @cache
    def look_into(parent: str) -> tuple[str, frozenset[str] | None]:
        parent = os.path.join(root, parent)
        return _real_path_or_same(parent), _list_links(parent)

    def follow(reference: str) -> str:
        parent, name = os.path.split(reference)
        real, links = look_into(parent)
        if links is None or name in links or name in ('', '.', '..'):
            return _real_path_or_same(os.path.join(root, reference))
        return os.path.join(real, name)

    return follow


def _real_path_or_same(path: str) -> str:
    try:
        return real_path(path)
    except (OSError, ValueError):
        return path


def _resolves_into(path: str, folder: str, itself: bool = False) -> bool:
    try:
        real = real_path(path)
    except (OSError, ValueError):
        return True  # it cannot be opened
    return is_inside(real, folder) or (itself and real == folder)


def _list_links(folder: str) -> frozenset[str] | None:
    """Names of the links in a folder; ``None`` if they cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_symlink())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return frozenset()
    except OSError:
        return None
