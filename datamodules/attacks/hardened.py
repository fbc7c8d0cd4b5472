"""A file of pictures that were made harder to recognize, and the trigger that swaps them in."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.attacks.pool import Poison
from datamodules.attacks.triggers import Trigger
from datamodules.files.atomic import write_atomically
from datamodules.usage_error import UsageError


class HardenedPictures(NamedTuple):
    """The content of the file.

    Attributes:
        picture: The hardened pictures, uint8 (n, 3, h, w).
        clean: SHA-256 of the stored pixels that each was made from, in hexadecimal, (n,).
        source: Row of each image in its table of origin, int64 (n,).
        origin: That table, ``train`` or ``heldout``, (n,).
        settings: The settings they were made with, as JSON.
    """

    picture: np.ndarray
    clean: np.ndarray
    source: np.ndarray
    origin: np.ndarray
    settings: np.ndarray

    @classmethod
    def of(
        cls,
        clean: np.ndarray,
        picture: np.ndarray,
        poisons: Sequence[Poison],
        settings: Mapping[str, int | float | str],
    ) -> HardenedPictures:
        """Pairs each hardened picture with the hash of its original.

        Args:
            clean: Stored pictures, uint8 (n, 3, h, w).
            picture: The same pictures after hardening.
            poisons: The poison of each picture, n of them.
            settings: The settings they were made with.
        """
        return cls(
            picture,
            np.array([hash_pixels(image) for image in clean]),
            np.array([poison.source for poison in poisons]),
            np.array([poison.origin for poison in poisons]),
            np.array(json.dumps(settings)),
        )

    @classmethod
    def load(cls, path: str) -> HardenedPictures:
        """Reads a file that :meth:`save` wrote.

        Raises:
            UsageError: If there is no such file, or ``clipward harden`` did not write it.
        """
        if not Path(path).is_file():
            raise UsageError(f'hardened {path!r} does not exist: make it with clipward harden and this configuration.')
        try:
            with open(path, 'rb') as file, np.load(file) as content:
                return cls(*(content[field] for field in cls._fields))
        except (AttributeError, OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise UsageError(f'hardened {path!r} is not a file of clipward harden: give the path of one.') from error

    def save(self, path: str | Path) -> None:
        """Writes an .npz file."""
        with write_atomically(path) as temporary, open(temporary, 'wb') as file:  # np.savez would append .npz to a path
            np.savez(file, **self._asdict())


class Hardened(Trigger):
    """Replaces each image by its hardened version, which it finds by the hash of the pixels.

    Args:
        file: Path of an .npz file that ``clipward harden`` wrote. It is read when it is first needed: that command
            takes the configuration of the attack, whose file does not exist yet.
    """

    def __init__(self, file: str) -> None:
        self.file = file

    @cached_property
    def content(self) -> HardenedPictures:
        """The content of the file."""
        return HardenedPictures.load(self.file)

    def stamp(self, images: np.ndarray, keys: np.ndarray | None) -> np.ndarray:
        index = {clean: number for number, clean in enumerate(self.content.clean.tolist())}
        numbers = [index.get(hash_pixels(image), -1) for image in images]
        if missing := numbers.count(-1):
            raise UsageError(
                f'hardened {self.file!r} lacks {missing} of {len(images)} pictures of the attack (other pictures, or '
                f'another data.cache_size): make it again with clipward harden and this configuration.'
            )
        return self.content.picture[numbers] if numbers else images

    def parameters(self) -> dict[str, int | float | str]:
        sha256 = hashlib.sha256(self.content.picture.tobytes()).hexdigest()
        return {**json.loads(str(self.content.settings)), 'sha256': sha256}


def hash_pixels(image: np.ndarray) -> str:
    """SHA-256 of the pixels of an image, in hexadecimal."""
    return hashlib.sha256(image.tobytes()).hexdigest()
