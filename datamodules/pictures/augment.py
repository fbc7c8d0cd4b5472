"""Views of images, made in batches on the device.

Every step of SimCLR's augmentation (Chen et al., 2020) is linear: cropping, flipping, resizing and blurring
mix pixels along one axis at a time, jitter and grayscale mix the channels of a pixel. So one view is

    clamp( C (R_y X R_x^T) + c )

with a row and a column matrix for each image (interpolation times Gaussian) and a 3 x 3 color matrix: three
batched products instead of eight passes over the pixels. What this leaves out is the clamping between the
steps of jitter; it happens once, at the end. The brightness, contrast and saturation factors are torchvision's;
hue turns the chroma plane of YIQ.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from datamodules.rows.draws import uniform
from datamodules.usage_error import UsageError

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's own training images (Radford et al., 2021)
STD = (0.26862954, 0.26130258, 0.27577711)
_GRAY = (0.299, 0.587, 0.114)  # ITU-R 601 luma, as PIL and torchvision
_BAND = 32  # rows of a matrix that a CPU multiplies at once
_PIXELS = 1 << 18  # pixels of the images that a CPU makes views of at once
_LEAST = 1e-7  # weight in a blur, over that of the middle; less is lost in rounding, and denormal numbers are slow
_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def normalize(image: Tensor) -> Tensor:
    """Standardizes images in [0, 1] by CLIP's channel means and deviations, shape (..., 3, H, W)."""
    mean, std = (torch.tensor(x, device=image.device, dtype=image.dtype).view(3, 1, 1) for x in (MEAN, STD))
    return (image - mean).div_(std)


def interpolation(start: Tensor, length: Tensor, source: int, size: int) -> Tensor:
    """Matrices that resize the interval [start, start + length) of an axis to ``size`` pixels.

    Bilinear, with the filter widened where the axis shrinks (torchvision's ``antialias=True``).

    Args:
        start: Left end of each interval in source pixels, (B,).
        length: Length of each interval in source pixels, (B,); negative to flip.
        source: Pixels along the source axis.
        size: Pixels along the new axis.

    Returns:
        Row-stochastic matrices, float32 (B, size, source).
    """
    place = torch.arange(size, device=start.device)
    center = start[:, None] + (place + 0.5) * (length / size)[:, None]  # (B, size)
    reach = (length.abs() / size).clamp(min=1)[:, None, None]
    pixel = torch.arange(source, device=start.device) + 0.5
    weight = (pixel - center[..., None]).abs_().div_(-reach).add_(1).clamp_(min=0)  # (B, size, source)
    return weight.div_(weight.sum(-1, keepdim=True).clamp(min=1e-12))


def gaussian(sigma: Tensor, size: int, reach: int) -> Tensor:
    """Matrices that blur an axis, with the border reflected; the identity where sigma is 0.

    Args:
        sigma: Standard deviation in pixels, (B,).
        size: Pixels along the axis.
        reach: Pixels on either side that count; a kernel of 2 * reach + 1.

    Returns:
        Row-stochastic matrices, float32 (B, size, size).
    """
    offset = torch.arange(-reach, reach + 1, device=sigma.device)
    kernel = torch.exp(-0.5 * (offset / sigma.clamp(min=1e-3)[:, None]) ** 2)
    kernel = torch.where(kernel < _LEAST, 0, kernel)
    kernel = kernel / kernel.sum(-1, keepdim=True)
    place = torch.arange(size, device=sigma.device)[:, None] + offset  # (size, 2 * reach + 1)
    place = (size - 1 - (size - 1 - place.abs()).abs()).clamp(0, size - 1)  # reflected at both ends
    matrix = torch.zeros(len(sigma), size, size, device=sigma.device)
    return matrix.scatter_add_(2, place.expand(len(sigma), -1, -1), kernel[:, None].expand(-1, size, -1).contiguous())


def resample(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Applies a matrix to each axis: (B, 3, h, w) of any type, (B, H, h), (B, W, w) -> float32 (B, 3, H, W)."""
    wide = product(columns, image.float().flatten(1, 2).mT).mT  # (B, 3 * h, W)
    return product(rows, wide.unflatten(1, (3, -1)).flatten(0, 1)).unflatten(0, (-1, 3))


def product(matrix: Tensor, x: Tensor) -> Tensor:
    """``matrix @ x`` where the entries of a matrix lie near its diagonal, as those of a resize or a blur do.

    A CPU is spared most of the zeros, which at 224 pixels makes it three times as fast; a GPU is faster with them.

    Args:
        matrix: Matrices, (A, M, K), each for the next B / A of ``x``.
        x: What they are applied to, (B, K, N).

    Returns:
        The products, (B, M, N), laid out in memory as ``x`` is.
    """
    count, transposed = len(x) // len(matrix), not x[0].is_contiguous()
    if x.device.type != 'cpu' or x.shape[1] <= 2 * _BAND or x.requires_grad:
        return (matrix[:, None] @ x.unflatten(0, (-1, count))).flatten(0, 1)
    shape = len(x), matrix.shape[1], x.shape[2]
    out = x.new_empty(shape[0], shape[2], shape[1]).mT if transposed else x.new_empty(shape)
    for first in range(0, shape[1], _BAND):
        place, part = slice(first, first + _BAND), matrix[:, first : first + _BAND]
        for i, span in enumerate(_spans(part)):
            for j in range(i * count, (i + 1) * count):
                torch.mm(part[i, :, span], x[j, span], out=out[j, place])
    return out


def _spans(matrix: Tensor) -> list[slice]:
    """The columns between the first and the last that is not zero in each matrix, (B, M, K)."""
    there = (matrix != 0).any(1).byte()  # (B, K)
    first, after = there.argmax(1), there.shape[1] - there.flip(1).argmax(1)
    return [slice(*ends) for ends in torch.stack([first, after], 1).tolist()]


class ImageViews(ABC):
    """What an image goes through before the model sees it in training."""

    @abstractmethod
    def __call__(self, image: Tensor, row: Tensor, size: int, *, seed: int, epoch: int, view: int) -> Tensor:
        """Makes one view of each image.

        Args:
            image: uint8 (B, 3, h, w).
            row: Row of each image, int64 (B,); with the seed, the epoch and the view it fixes the randomness.
            size: Side H of the view in pixels.
            seed: Seed of the run.
            epoch: Epoch, counted from 0.
            view: Which view, counted from 0.

        Returns:
            Float (B, 3, H, H) in [0, 1].
        """


class CleanView(ImageViews):
    """The whole image, resized if need be: what is scored, evaluated, and seen by CLIP without augmentation."""

    def __call__(self, image: Tensor, row: Tensor, size: int, *, seed: int, epoch: int, view: int) -> Tensor:
        pixels = image.float() / 255
        if image.shape[-1] == size:
            return pixels
        zero, full = torch.zeros(1, device=image.device), torch.full((1,), float(image.shape[-1]), device=image.device)
        matrix = interpolation(zero, full, image.shape[-1], size)
        return resample(pixels, matrix, matrix).clamp(0, 1)


class SimCLRViews(ImageViews):
    """Random crop, flip, color jitter, grayscale and blur (SimCLR, appendix A; the paper's augmentation).

    Args:
        crop_scale: Area of the crop as a fraction of the image, least and most.
        crop_ratio: Aspect ratio of the crop, least and most.
        flip: Probability of a horizontal flip.
        jitter: Probability of color jitter.
        brightness: Largest relative change of brightness.
        contrast: Largest relative change of contrast.
        saturation: Largest relative change of saturation.
        hue: Largest turn of the hue, in full turns.
        gray: Probability of grayscale.
        blur: Probability of a Gaussian blur. SimCLR: 0.5, and 0 at 32 pixels; SafeCLIP's code blurs always.
        blur_sigma: Standard deviation in pixels of a 224-pixel image, least and most; scaled with the size.
    """

    def __init__(
        self,
        crop_scale: tuple[float, float] = (0.08, 1.0),
        crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        jitter: float = 0.8,
        brightness: float = 0.5,
        contrast: float = 0.5,
        saturation: float = 0.5,
        hue: float = 0.1,
        gray: float = 0.2,
        blur: float = 0.5,
        blur_sigma: tuple[float, float] = (0.1, 2.0),
    ) -> None:
        if not 0 < crop_scale[0] <= crop_scale[1] <= 1:
            raise UsageError(f'crop_scale must be two fractions of the area, least first, got {crop_scale}.')
        self.crop_scale, self.crop_ratio, self.flip = crop_scale, crop_ratio, flip
        self.jitter, self.gray, self.blur, self.blur_sigma = jitter, gray, blur, blur_sigma
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue

    def __call__(self, image: Tensor, row: Tensor, size: int, *, seed: int, epoch: int, view: int) -> Tensor:
        u = uniform(seed, epoch, row, view, 13)
        # A CPU is twice as fast with what fits its cache; it is also spared asking the system for memory every time.
        count = max(1, _PIXELS // image[0, 0].numel()) if image.device.type == 'cpu' else len(image)
        views = [self._made(*part, size) for part in zip(image.split(count), u.split(count), strict=True)]
        return torch.cat(views) if len(views) > 1 else views[0]

    def _made(self, image: Tensor, u: Tensor, size: int) -> Tensor:
        """The views of some images that random numbers (B, 13) ask for."""
        rows, columns = self._crop(u[:, :5], image.shape[-2], image.shape[-1], size)
        if self.blur:
            blur = self._blur(u[:, 5:7], size)
            rows, columns = product(blur, rows), product(blur, columns)
        return self._color(resample(image, rows.div_(255), columns), u[:, 7:])

    def _crop(self, u: Tensor, height: int, width: int, size: int) -> tuple[Tensor, Tensor]:
        """Crop, flip and resize as a row and a column matrix; a crop too wide or too high is cut to the image."""
        low, high = self.crop_scale
        area = (low + (high - low) * u[:, 0]) * height * width
        low, high = (math.log(x) for x in self.crop_ratio)
        ratio = torch.exp(low + (high - low) * u[:, 1])
        w, h = (area * ratio).sqrt().clamp(max=width), (area / ratio).sqrt().clamp(max=height)
        left, top = u[:, 2] * (width - w), u[:, 3] * (height - h)
        flip = u[:, 4] < self.flip
        columns = interpolation(torch.where(flip, left + w, left), torch.where(flip, -w, w), width, size)
        return interpolation(top, h, height, size), columns

    def _blur(self, u: Tensor, size: int) -> Tensor:
        """Blur matrices, the identity for the images that the coin spares."""
        low, high = (x * size / 224 for x in self.blur_sigma)
        sigma = torch.where(u[:, 0] < self.blur, low + (high - low) * u[:, 1], torch.zeros_like(u[:, 0]))
        return gaussian(sigma, size, reach=max(1, size // 20))  # kernel of a tenth of the side, as SimCLR

    def _color(self, image: Tensor, u: Tensor) -> Tensor:
        """Jitter and grayscale as one affine map of each image's channels."""
        gray = torch.tensor(_GRAY, device=image.device)
        eye, to_gray = torch.eye(3, device=image.device), gray.expand(3, 3)
        spread = torch.tensor([self.brightness, self.contrast, self.saturation], device=image.device)
        factor = (1 + spread * (2 * u[:, 1:4] - 1)).clamp(min=0)
        on = u[:, :1] < self.jitter
        brightness, contrast, saturation = torch.where(on, factor, torch.ones_like(factor)).T[..., None, None]
        turn = torch.where(on[:, 0], self.hue * (2 * u[:, 4] - 1), torch.zeros_like(u[:, 4]))
        hue = hue_matrix(turn)
        mean = (image.mean((-2, -1)) @ gray)[:, None, None] * brightness  # luma that contrast turns about, (B, 1, 1)
        matrix = hue @ (saturation * eye + (1 - saturation) * to_gray) * (brightness * contrast)
        offset = (1 - contrast) * mean  # equal in all channels, so saturation, hue and grayscale leave it alone
        matrix = torch.where((u[:, 5] < self.gray)[:, None, None], to_gray @ matrix, matrix)
        pixels = torch.baddbmm(offset.expand(-1, 3, 1), matrix, image.flatten(2))
        return pixels.clamp_(0, 1).view_as(image)


def hue_matrix(turn: Tensor) -> Tensor:
    """Rotations of the chroma plane of YIQ in RGB, from red to green; ``turn`` in full turns, (B,) -> (B, 3, 3)."""
    yiq = torch.tensor(_YIQ, device=turn.device)
    cos, sin = torch.cos(2 * math.pi * turn), torch.sin(2 * math.pi * turn)
    rotation = torch.zeros(len(turn), 3, 3, device=turn.device)
    rotation[:, 0, 0] = 1
    rotation[:, 1, 1], rotation[:, 1, 2], rotation[:, 2, 1], rotation[:, 2, 2] = cos, sin, -sin, cos
    return torch.linalg.inv(yiq) @ rotation @ yiq
