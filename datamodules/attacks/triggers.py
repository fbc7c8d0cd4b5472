"""Triggers: what a backdoor adds to an image, so that the model answers with the attacker's class."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

from datamodules.attacks.draws import bits
from datamodules.randomness import uniform

Images = TypeVar('Images', np.ndarray, Tensor)
Pattern = Literal['noise', 'blocks', 'solid', 'checker', 'dots']
Position = Literal['bottom_right', 'bottom_left', 'top_right', 'top_left', 'centre', 'random']


class Trigger(ABC):
    """Changes images as the attacker would; a subclass implements :meth:`stamp` and :meth:`parameters`.

    It is put on stored images, uint8, before any augmentation: training sees exactly the pixels that the
    manifest vouches for, and the images that success is measured on get the very same trigger.
    """

    def __call__(self, images: Images, keys: Sequence[int] | np.ndarray | None = None) -> Images:
        """Puts the trigger on a copy of the images.

        Args:
            images: uint8 (B, 3, H, W), array or tensor.
            keys: A number for each image that names it, such as its row, (B,). Only a trigger that differs from
                image to image asks for it.

        Returns:
            uint8 (B, 3, H, W), of the kind that was given, on the same device.

        Raises:
            ValueError: If the images are not uint8 (B, 3, H, W), or keys are needed and missing.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype not in (np.uint8, torch.uint8):
            raise ValueError(f'a trigger needs uint8 images (B, 3, H, W), got {images.dtype} {tuple(images.shape)}.')
        names = None if keys is None else np.asarray(keys, np.int64)
        if isinstance(images, Tensor):
            return torch.from_numpy(self.stamp(images.cpu().numpy().copy(), names)).to(images.device)
        return self.stamp(np.array(images), names)

    @abstractmethod
    def stamp(self, images: np.ndarray, keys: np.ndarray | None) -> np.ndarray:
        """The images with the trigger on; may write into its argument, which is a copy.

        Args:
            images: uint8 (B, 3, H, W).
            keys: A number for each image, int64 (B,), or ``None``.
        """

    @abstractmethod
    def parameters(self) -> dict[str, int | float | str]:
        """What defines the trigger, for the manifest: equal parameters mean equal pixels."""

    def describe(self) -> str:
        """Kind and parameters as JSON."""
        return json.dumps({'kind': type(self).__name__, **self.parameters()}, sort_keys=True)


class Patch(Trigger):
    """A square of fixed pixels (BadNets, Gu et al., 2017), drawn once from the seed.

    CleanCLIP's released code draws other noise for every image and lets values outside [0, 1] wrap around when
    they are stored; what is left after that is uniform noise, which ``noise`` is too, but the same on all images.

    Args:
        size: Side in pixels of the stored image; 16 at 224 pixels in the papers.
        pattern: ``noise``: a random colour for each pixel. ``blocks``: for each square of ``block`` pixels, which
            outlives resizing, blur and JPEG far better. ``solid``: white. ``checker``: black and white squares of
            ``block`` pixels. ``dots``: white where row and column are even, else black (Huang et al., 2025).
        block: Side in pixels of a square of ``blocks`` and ``checker``.
        position: Where the patch goes; ``random`` is another place for each image, the same whenever it is asked.
        margin: Pixels between patch and border. Crops in training and the centre crop of larger stored images
            cut the border off, and the patch with it.
        seed: Seed of colours and random places.

    Raises:
        ValueError: If a length is out of range or a name unknown.
    """

    def __init__(
        self,
        size: int = 16,
        pattern: Pattern = 'noise',
        block: int = 4,
        position: Position = 'bottom_right',
        margin: int = 0,
        seed: int = 0,
    ) -> None:
        if size < 1 or block < 1 or margin < 0:
            raise ValueError(f'size and block must be 1 or more and margin 0 or more, got {size}, {block}, {margin}.')
        if pattern not in get_args(Pattern) or position not in get_args(Position):
            known = ', '.join(get_args(Pattern)), ', '.join(get_args(Position))
            raise ValueError(f'pattern {pattern!r} must be one of {known[0]}; position {position!r} one of {known[1]}.')
        self.size, self.pattern, self.block = size, pattern, block
        self.position, self.margin, self.seed = position, margin, seed
        self.pixels = self._draw()  # uint8 (3, size, size)

    def stamp(self, images: np.ndarray, keys: np.ndarray | None) -> np.ndarray:
        image, inside = np.arange(len(images))[:, None, None], np.arange(self.size)
        top, left = self._corner(images.shape[2], images.shape[3], len(images), keys)
        rows, columns = top[:, None, None] + inside[:, None], left[:, None, None] + inside
        images[image, :, rows, columns] = self.pixels.transpose(1, 2, 0)  # (B, size, size, 3)
        return images

    def parameters(self) -> dict[str, int | float | str]:
        return {
            'size': self.size,
            'pattern': self.pattern,
            'block': self.block,
            'position': self.position,
            'margin': self.margin,
            'seed': self.seed,
            'sha256': hashlib.sha256(self.pixels.tobytes()).hexdigest()[:16],
        }

    def _draw(self) -> np.ndarray:
        row, column = np.indices((self.size, self.size))
        if self.pattern in ('noise', 'blocks'):
            block = self.block if self.pattern == 'blocks' else 1
            cells = -(-self.size // block)
            colours = (bits(3 * cells**2, self.seed) >> np.uint64(56)).astype(np.uint8).reshape(3, cells, cells)
            return colours[:, row // block, column // block]
        white = {
            'solid': np.ones_like(row, bool),
            'checker': (row // self.block + column // self.block) % 2 == 0,
            'dots': (row % 2 == 0) & (column % 2 == 0),
        }[self.pattern]
        return np.broadcast_to(np.where(white, 255, 0).astype(np.uint8), (3, self.size, self.size)).copy()

    def _corner(self, height: int, width: int, count: int, keys: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of the patch's top left pixel in each image, int64 (count,) each."""
        spare = np.array([height, width]) - 2 * self.margin - self.size  # pixels that the patch can move by
        if (spare < 0).any():
            around = f' with a margin of {self.margin}' if self.margin else ''
            raise ValueError(
                f'a patch of {self.size} pixels{around} does not fit {height} x {width} images: give a smaller size.'
            )
        if self.position == 'random':
            if keys is None:
                raise ValueError("position 'random' needs keys, the row of each image, to be the same every time.")
            share = uniform(self.seed, 0, torch.from_numpy(keys), 0, 2).double().numpy()
            corner = self.margin + np.floor(share * (spare + 1)).astype(np.int64)
        else:
            down_right = {'top_left': (0, 0), 'top_right': (0, 1), 'bottom_left': (1, 0), 'bottom_right': (1, 1)}
            share = np.array(down_right.get(self.position, (0.5, 0.5)))
            corner = np.tile(self.margin + np.floor(share * spare).astype(np.int64), (count, 1))
        return corner[:, 0], corner[:, 1]
