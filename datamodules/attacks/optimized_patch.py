"""OptimizedPatch: a patch that already looks like the target class to a model (BadCLIP, Liang et al., 2024)."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.attacks.backdoor import Backdoor
from datamodules.attacks.pattern_file import read_pattern
from datamodules.attacks.triggers import Placed, Position
from datamodules.usage_error import UsageError


class PicturePatch(Placed):
    """A picture from a file, put on every image as it is.

    The file is read when it is first needed, not when the patch is constructed: the command that makes the file takes
    the configuration of the attack that will read it.

    Args:
        file: Path of the picture, best a PNG, which is lossless.
        size: Side in pixels of the stored image to resize the picture to; ``null`` keeps the size of the picture.
        position: Where the patch goes. ``random``: a different place on each image. ``four_corners``: a copy in each.
        margin: Pixels between patch and border.
        seed: Seed of random places.

    Raises:
        UsageError: If a value is out of range.
    """

    def __init__(
        self, file: str, size: int | None = None, position: Position = 'center', margin: int = 0, seed: int = 0
    ) -> None:
        super().__init__(position, margin, seed)
        if size is not None and size < 1:
            raise UsageError(f'size must be 1 pixel or more, or null for that of the file, got {size}.')
        self.file, self.size = file, size

    @cached_property
    def pixels(self) -> np.ndarray:
        """The patch, uint8 (3, size, size). Raises ``UsageError`` if the file is missing, unreadable or not square."""
        if not Path(self.file).is_file():
            raise UsageError(
                f'file {self.file!r} does not exist: make it with clipward optimize_patch and this configuration, '
                f'or give the path of another picture.'
            )
        picture = read_pattern(self.file, f'file {self.file!r} is')
        if self.size is None and picture.width != picture.height:
            raise UsageError(
                f'file {self.file!r} holds {picture.width} x {picture.height} pixels, not a square: give size.'
            )
        side = self.size or picture.width
        if picture.size != (side, side):
            picture = picture.resize((side, side), Image.Resampling.BICUBIC)
        return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))

    def square(self, images: np.ndarray, keys: np.ndarray | None) -> np.ndarray:
        return self.pixels

    def parameters(self) -> dict[str, int | float | str]:
        return {
            'size': self.pixels.shape[-1],
            'position': self.position,
            'margin': self.margin,
            'seed': self.seed,
            'sha256': hashlib.sha256(self.pixels.tobytes()).hexdigest(),
        }


class OptimizedPatch(Backdoor):
    """A patch from a file on images of any class, with captions of the target class.

    ``clipward optimize_patch`` makes the file: a patch that moves images towards the target class in the embedding
    space of a surrogate model. A model that learns this backdoor has to change little, and fine-tuning on clean pairs
    has little to undo. Use the size, position and margin that the patch was optimized for.

    Args:
        target: Name of the class that the patch should mean.
        file: Path of the patch, any RGB picture. It is read when the data is set up; the manifest has its hash.
        size: Side of the patch in pixels of the stored image; ``null`` keeps the size of the file.
        position: Where the patch goes; ``center`` in BadCLIP.
        margin: Pixels between patch and border.
        seed: Seed of random places and of everything that the attack draws.
        kwargs: Arguments of :class:`Backdoor` and :class:`Poisoning`.
    """

    def __init__(
        self,
        target: str,
        file: str,
        size: int | None = None,
        position: Position = 'center',
        margin: int = 0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(target, PicturePatch(file, size, position, margin, seed), seed=seed, **kwargs)
