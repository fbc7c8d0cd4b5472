"""Pictures that have been made harder to recognize, in a file, and the trigger that puts them in their places."""

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
from datamodules.usage_error import UsageError


class HardenedPictures(NamedTuple):
    """What a file holds.

    Attributes:
        picture: The pictures, uint8 (n, 3, h, w).
        clean: SHA-256 of the pixels that each of them was, as they are stored, in hexadecimal, (n,).
        source: Row of each image in its table of origin, int64 (n,).
        origin: That table, ``train`` or ``heldout``, (n,).
        settings: What they were made with, as JSON.
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
        """Names each picture by the one that it was.

        Args:
            clean: Stored pictures, uint8 (n, 3, h, w).
            picture: What has become of them, of the same shape.
            poisons: Whose images they are, n of them.
            settings: What they were made with.
        """
        return cls(
            picture,
            np.array([digest(image) for image in clean]),
            np.array([poison.source for poison in poisons]),
            np.array([poison.origin for poison in poisons]),
            np.array(json.dumps(settings)),
        )

    @classmethod
    def load(cls, path: str) -> HardenedPictures:
        """Reads a file that :meth:`save` wrote.

        Raises:
            UsageError: If there is no such file, or it is another kind of file.
        """
        if not Path(path).is_file():
            raise UsageError(f'hardened {path!r} does not exist: make it with clipward harden and this configuration.')
        try:
            with open(path, 'rb') as file, np.load(file) as content:
                return cls(*(content[field] for field in cls._fields))
        except (AttributeError, OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise UsageError(f'hardened {path!r} is no file of clipward harden: give the path of one.') from error

    def save(self, path: str | Path) -> None:
        """Writes an .npz file."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, 'wb') as file:  # a name alone would get an ending
            np.savez(file, **self._asdict())


class Hardened(Trigger):
    """Puts the picture that an image has become in its place. It knows an image by its pixels.

    Args:
        file: Path of an .npz file that ``clipward harden`` wrote; it is read when it is needed, see
            :class:`datamodules.attacks.optimized_patch.PicturePatch`.
    """

    def __init__(self, file: str) -> None:
        self.file = file

    @cached_property
    def content(self) -> HardenedPictures:
        """What the file holds."""
        return HardenedPictures.load(self.file)

    def stamp(self, images: np.ndarray, keys: np.ndarray | None) -> np.ndarray:
        place = {clean: number for number, clean in enumerate(self.content.clean.tolist())}
        found = [place.get(digest(image), -1) for image in images]
        if absent := found.count(-1):
            raise UsageError(
                f'hardened {self.file!r} lacks {absent} of {len(images)} pictures of the attack, for it was made for '
                f'other ones or another data.cache_size: make it again with clipward harden and this configuration.'
            )
        return self.content.picture[found] if found else images

    def parameters(self) -> dict[str, int | float | str]:
        sha256 = hashlib.sha256(self.content.picture.tobytes()).hexdigest()
        return {**json.loads(str(self.content.settings)), 'sha256': sha256}


def digest(image: np.ndarray) -> str:
    """SHA-256 of the pixels of an image, in hexadecimal."""
    return hashlib.sha256(image.tobytes()).hexdigest()
