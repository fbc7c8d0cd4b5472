"""Triggers: what a backdoor puts on an image so that the model answers with the attacker's class."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

from datamodules.rows.draws import bits, normals, uniform
from datamodules.usage_error import UsageError

Images = TypeVar('Images', np.ndarray, Tensor)
Pattern = Literal['noise', 'blocks', 'solid', 'checker', 'dots', 'stripes', 'gaussian', 'gaussian_wrapped']
Position = Literal['bottom_right', 'bottom_left', 'top_right', 'top_left', 'center', 'random', 'four_corners']
_DOWN_RIGHT = {'top_left': (0, 0), 'top_right': (0, 1), 'bottom_left': (1, 0), 'bottom_right': (1, 1)}
_MIDDLE = (0.5, 0.5)
_PER_IMAGE_PATTERNS = ('gaussian', 'gaussian_wrapped')  # drawn anew for each image


class Trigger(ABC):
    """Changes images as the attacker would. A subclass implements :meth:`stamp` and :meth:`parameters`.

    The trigger goes on stored uint8 images, before any augmentation: training sees exactly the pixels that the
    manifest describes, and the images that success is measured on get the same trigger.
    """

    def __call__(self, images: Images, keys: Sequence[int] | np.ndarray | None = None) -> Images:
        """Puts the trigger on a copy of the images.

        Args:
            images: uint8 (B, 3, H, W), array or tensor.
            keys: A number that identifies each image, such as its row, (B,). Only triggers that vary from image to
                image need it.

        Returns:
            uint8 (B, 3, H, W): an array or tensor like ``images``, on the same device.

        Raises:
            UsageError: If the images are not uint8 (B, 3, H, W), or keys are needed and missing.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype not in (np.uint8, torch.uint8):
            raise UsageError(f'a trigger needs uint8 images (B, 3, H, W), got {images.dtype} {tuple(images.shape)}.')
        names = None if keys is None else np.asarray(keys, np.int64)
        if isinstance(images, Tensor):
            return torch.from_numpy(self.stamp(images.cpu().numpy().copy(), names)).to(images.device)
        return self.stamp(np.array(images), names)

    @abstractmethod
    def stamp(self, images: np.ndarray, keys: np.ndarray | None) -> np.ndarray:
        """The images with the trigger on. May change its argument, which is a copy.

        Args:
            images: uint8 (B, 3, H, W).
            keys: The number that identifies each image, int64 (B,), or ``None``.
        """

    @abstractmethod
    def parameters(self) -> dict[str, int | float | str]:
        """What defines the trigger in the manifest. Equal parameters must mean equal pixels."""

    def describe(self) -> str:
        """Class name and parameters as JSON."""
        return json.dumps({'kind': type(self).__name__, **self.parameters()}, sort_keys=True)


def require_keys(keys: np.ndarray | None, what: str) -> np.ndarray:
    """The keys of a batch. Raises ``UsageError`` if there are none, naming ``what``, which varies with them."""
    if keys is None:
        raise UsageError(f'{what} needs keys, the row of each image, to be the same every time.')
    return keys


def draw_colors(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Random uint8 values of a shape, the same for the same seed."""
    return (bits(math.prod(shape), seed) >> np.uint64(56)).astype(np.uint8).reshape(shape)


def wrap_to_bytes(values: np.ndarray) -> np.ndarray:
    """Converts values in [0, 1] to bytes; values outside wrap around, as in torchvision's ``ToPILImage`` on x86.

    ``255 * value`` is truncated towards zero and its lowest eight bits are kept (C leaves negative values undefined).
    """
    return (np.trunc(values * 255).astype(np.int64) % 256).astype(np.uint8)


def mix(images: np.ndarray, pattern: np.ndarray, ratio: float) -> np.ndarray:
    """``(1 - ratio) * images + ratio * pattern``, rounded and clipped to [0, 255].

    Args:
        images: uint8 (B, 3, H, W), overwritten.
        pattern: What is mixed in, in units of [0, 255] and of any sign, broadcastable to one image.
        ratio: Share of the pattern, in [0, 1]: 0 returns the image, 1 the pattern.

    Returns:
        ``images``, uint8 (B, 3, H, W).
    """
    added = np.asarray(pattern, np.float32) * np.float32(ratio)
    for image in images:  # one at a time stays in the processor's cache
        values = image.astype(np.float32)
        values *= np.float32(1 - ratio)
        values += added
        image[...] = np.clip(np.rint(values, out=values), 0, 255, out=values)
    return images


def check_share(name: str, value: float) -> float:
    """The value of an argument that is a share. Raises ``UsageError`` if it is not in [0, 1]."""
    if not 0 <= value <= 1:
        raise UsageError(f'{name} must be a share in [0, 1], where 0 makes the trigger invisible, got {value}.')
    return value


class Placed(Trigger):
    """A square of pixels on each image. A subclass provides its content in :meth:`square`.

    Args:
        position: Where the square goes. ``random``: a different place on each image, always the same for a key.
            ``four_corners``: a copy in each corner.
        margin: Pixels between the square and the border.
        seed: Seed of random places.

    Raises:
        UsageError: If ``position`` is unknown or ``margin`` negative.
    """

    def __init__(self, position: Position, margin: int, seed: int) -> None:
        if position not in get_args(Position):
            raise UsageError(f'position must be one of {", ".join(get_args(Position))}, got {position!r}.')
        if margin < 0:
            raise UsageError(f'margin must be 0 pixels or more, got {margin}.')
        self.position, self.margin, self.seed = position, margin, seed

    @abstractmethod
    def square(self, images: np.ndarray, keys: np.ndarray | None) -> np.ndarray:
        """Its pixels, uint8: (3, size, size) for all images or (B, 3, size, size). Arguments as in :meth:`stamp`."""

    def cover(self, square: np.ndarray, before: np.ndarray) -> np.ndarray:
        """What replaces the pixels ``before`` under the square, both (..., size, size, 3)."""
        return square

    def stamp(self, images: np.ndarray, keys: np.ndarray | None) -> np.ndarray:
        square = np.moveaxis(self.square(images, keys), -3, -1)  # (B, size, size, 3), or (size, size, 3) for all images
        image, inside = np.arange(len(images))[:, None, None], np.arange(square.shape[-2])
        for corner in self.corners(images.shape, len(inside), keys):
            rows, columns = corner[:, :1, None] + inside[:, None], corner[:, 1:, None] + inside
            images[image, :, rows, columns] = self.cover(square, images[image, :, rows, columns])
        return images

    def corners(self, shape: Sequence[int], size: int, keys: np.ndarray | None) -> np.ndarray:
        """Row and column of the top left pixel of each copy of the square on each image.

        Args:
            shape: Shape of the images, (B, 3, H, W).
            size: Side of the square.
            keys: As in :meth:`stamp`.

        Returns:
            int64 (copies, B, 2).

        Raises:
            UsageError: If the square does not fit, or keys are needed and missing.
        """
        spare = np.array(shape[2:]) - 2 * self.margin - size  # pixels that the square can move by
        if (spare < 0).any():
            around = f' with a margin of {self.margin}' if self.margin else ''
            raise UsageError(
                f'a patch of {size} pixels{around} does not fit {shape[2]} x {shape[3]} images: give a smaller size.'
            )
        if self.position == 'random':
            names = require_keys(keys, "position 'random'")
            share = uniform(self.seed, 0, torch.tensor(names), 0, 2).double().numpy()
            return self.margin + np.floor(share * (spare + 1)).astype(np.int64)[None]
        places = _DOWN_RIGHT.values() if self.position == 'four_corners' else [_DOWN_RIGHT.get(self.position, _MIDDLE)]
        corner = self.margin + np.floor(np.array([*places]) * spare).astype(np.int64)
        return np.repeat(corner[:, None], shape[0], axis=1)


class Patch(Placed):
    """A square of pixels (BadNets, Gu et al., 2017), drawn once from the seed.

    CleanCLIP's released code draws fresh noise for every image, around the image's mean color, and lets values
    outside [0, 1] wrap around when they are stored: ``gaussian_wrapped``. The result is close to uniform noise. So is
    ``noise``, but it is the same on all images. That code never puts a patch of 16 pixels on the last row and
    column; here ``random`` uses every place.

    Args:
        size: Side in pixels of the stored image; 16 at 224 pixels in the papers.
        pattern: ``noise``: a random color for each pixel. ``blocks``: a random color for each square of ``block``
            pixels, which survives resizing, blur and JPEG far better. ``solid``: white. ``checker``: black and white
            squares of ``block`` pixels. ``dots``: white where row and column are even, else black (Huang et al.,
            2025). ``stripes``: a random color for each ``block`` columns. ``gaussian``: normal noise of standard
            deviation 1 around the mean of each channel, fresh for each image and clipped at black and white.
            ``gaussian_wrapped``: the same modulo 256, as in CleanCLIP's files.
        block: Side in pixels of a square of ``blocks`` or ``checker``, or width of one of the ``stripes``.
        position: Where the patch goes. ``random``: a different place on each image, always the same for a key.
            ``four_corners``: a copy in each corner.
        margin: Pixels between patch and border. Crops in training, and the center crop of larger stored images,
            cut off the border and a patch on it.
        seed: Seed of colors and random places.
        amplitude: Most that a value may move towards the pattern's, as a fraction of 255; below 1 the patch is
            less visible. For black and white patterns this adds and subtracts as Turner et al. (2019) do.

    Attributes:
        pixels: The patch, uint8 (3, size, size), or ``None`` if every image has its own.

    Raises:
        UsageError: If a length is out of range or a name unknown.

    Example:
        >>> import numpy as np
        >>> from datamodules.attacks import Patch
        >>> black = np.zeros((1, 3, 6, 6), np.uint8)
        >>> Patch(size=2, pattern='solid', position='bottom_right', margin=1)(black)[0, 0]
        array([[  0,   0,   0,   0,   0,   0],
               [  0,   0,   0,   0,   0,   0],
               [  0,   0,   0,   0,   0,   0],
               [  0,   0,   0, 255, 255,   0],
               [  0,   0,   0, 255, 255,   0],
               [  0,   0,   0,   0,   0,   0]], dtype=uint8)
    """

    def __init__(
        self,
        size: int = 16,
        pattern: Pattern = 'noise',
        block: int = 4,
        position: Position = 'bottom_right',
        margin: int = 0,
        seed: int = 0,
        amplitude: float = 1.0,
    ) -> None:
        super().__init__(position, margin, seed)
        if size < 1 or block < 1:
            raise UsageError(f'size and block must be 1 pixel or more, got {size} and {block}.')
        if pattern not in get_args(Pattern):
            raise UsageError(f'pattern must be one of {", ".join(get_args(Pattern))}, got {pattern!r}.')
        self.size, self.pattern, self.block = size, pattern, block
        self.amplitude = check_share('amplitude', amplitude)
        self.pixels = None if pattern in _PER_IMAGE_PATTERNS else self._draw_pixels()

    def square(self, images: np.ndarray, keys: np.ndarray | None) -> np.ndarray:
        return self._draw_own_pixels(images, keys) if self.pixels is None else self.pixels

    def cover(self, square: np.ndarray, before: np.ndarray) -> np.ndarray:
        if self.amplitude == 1:
            return square
        reach = round(255 * self.amplitude)
        return np.clip(square, before.astype(np.int16) - reach, before.astype(np.int16) + reach)

    def parameters(self) -> dict[str, int | float | str]:
        more: dict[str, int | float | str] = {}  # no defaults, so that older manifests keep their digest
        if self.pixels is not None:
            more['sha256'] = hashlib.sha256(self.pixels.tobytes()).hexdigest()[:16]
        if self.amplitude != 1:
            more['amplitude'] = self.amplitude
        return {
            'size': self.size,
            'pattern': self.pattern,
            'block': self.block,
            'position': self.position,
            'margin': self.margin,
            'seed': self.seed,
            **more,
        }

    def _draw_own_pixels(self, images: np.ndarray, keys: np.ndarray | None) -> np.ndarray:
        """A patch of its own for each image, uint8 (B, 3, size, size)."""
        names = require_keys(keys, f'pattern {self.pattern!r}')
        if not len(images):
            return np.empty((0, 3, self.size, self.size), np.uint8)
        noise = np.stack([normals(3 * self.size**2, self.seed, 1, int(key)) for key in names])
        values = images.mean((2, 3))[:, :, None, None] / 255 + noise.reshape(-1, 3, self.size, self.size)
        if self.pattern == 'gaussian_wrapped':
            return wrap_to_bytes(values)
        return np.rint(values.clip(0, 1) * 255).astype(np.uint8)

    def _draw_pixels(self) -> np.ndarray:
        row, column = np.indices((self.size, self.size))
        if self.pattern == 'stripes':
            return draw_colors((3, -(-self.size // self.block)), self.seed)[:, column // self.block]
        if self.pattern in ('noise', 'blocks'):
            block = self.block if self.pattern == 'blocks' else 1
            cells = -(-self.size // block)
            return draw_colors((3, cells, cells), self.seed)[:, row // block, column // block]
        white = {
            'solid': np.ones_like(row, bool),
            'checker': (row // self.block + column // self.block) % 2 == 0,
            'dots': (row % 2 == 0) & (column % 2 == 0),
        }[self.pattern]
        return np.broadcast_to(np.where(white, 255, 0).astype(np.uint8), (3, self.size, self.size)).copy()
