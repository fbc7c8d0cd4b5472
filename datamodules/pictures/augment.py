"""Views of images (SimCLR augmentation), made in batches on the device.

Every step of SimCLR's augmentation (Chen et al., 2020) is linear: cropping, flipping, resizing and blurring mix
pixels along one axis at a time, and jitter and grayscale mix the channels of a pixel. So a view is

    clamp( C (R_y X R_x^T) + c )

with a row and a column matrix for each image (interpolation times Gaussian) and a 3 x 3 color matrix. These are three
batched products instead of eight passes over the pixels. The only difference is that values are clamped once, at the
end, and not after each step of jitter. Brightness, contrast and saturation have torchvision's factors; hue is a
rotation of the chroma plane of YIQ.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cache

import torch
from torch import Tensor

from datamodules.rows.draws import uniform
from datamodules.usage_error import UsageError, check_number

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training images (Radford et al., 2021)
STD = (0.26862954, 0.26130258, 0.27577711)
_GRAY = (0.299, 0.587, 0.114)  # ITU-R 601 luma, as in PIL and torchvision
_BAND_ROWS = 32  # of a matrix that a CPU multiplies at once
_CPU_CHUNK_PIXELS = 1 << 18  # of the images that a CPU makes views of at once
_MIN_BLUR_WEIGHT = 1e-7  # relative to the center; less is lost in rounding, and denormal numbers are slow
_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def normalize(image: Tensor, out: Tensor | None = None) -> Tensor:
    """Normalizes images in [0, 1] by CLIP's channel means and standard deviations, shape (..., 3, H, W).

    Args:
        image: The images.
        out: Where to write the result; by default, into new memory.
    """
    mean, std = (_constant(x, image.device, image.dtype).view(3, 1, 1) for x in (MEAN, STD))
    return torch.sub(image, mean, out=out).div_(std)


@cache
def _constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers that are sent to a device once, because a step that sends some waits for the device."""
    with torch.inference_mode(False):  # views may be differentiated after an evaluation made the tensor
        return torch.tensor(values, dtype=dtype, device=device)


def interpolation(start: Tensor, length: Tensor, source: int, size: int) -> Tensor:
    """Builds matrices that resize the interval [start, start + length) of an axis to ``size`` pixels.

    Bilinear, with a wider filter where the axis shrinks (torchvision's ``antialias=True``).

    Args:
        start: Left end of each interval in source pixels, (B,).
        length: Length of each interval in source pixels, (B,); negative to flip.
        source: Pixels along the source axis.
        size: Pixels along the new axis.

    Returns:
        Row-stochastic matrices, float32 (B, size, source).
    """
    index = torch.arange(size, device=start.device)
    center = start[:, None] + (index + 0.5) * (length / size)[:, None]  # (B, size)
    reach = (length.abs() / size).clamp(min=1)[:, None, None]
    pixel = torch.arange(source, device=start.device) + 0.5
    weight = (pixel - center[..., None]).abs_().div_(-reach).add_(1).clamp_(min=0)  # (B, size, source)
    return weight.div_(weight.sum(-1, keepdim=True).clamp(min=1e-12))


def gaussian(sigma: Tensor, size: int, reach: int) -> Tensor:
    """Builds matrices that blur an axis, reflecting it at the border; the identity where sigma is 0.

    Args:
        sigma: Standard deviation in pixels, (B,).
        size: Pixels along the axis.
        reach: Pixels on either side of the center; the kernel has 2 * reach + 1.

    Returns:
        Row-stochastic matrices, float32 (B, size, size).
    """
    offset = torch.arange(-reach, reach + 1, device=sigma.device)
    kernel = torch.exp(-0.5 * (offset / sigma.clamp(min=1e-3)[:, None]) ** 2)
    kernel = torch.where(kernel < _MIN_BLUR_WEIGHT, 0, kernel)
    kernel = kernel / kernel.sum(-1, keepdim=True)
    source = torch.arange(size, device=sigma.device)[:, None] + offset  # (size, 2 * reach + 1)
    source = (size - 1 - (size - 1 - source.abs()).abs()).clamp(0, size - 1)  # reflected at both ends
    matrix = torch.zeros(len(sigma), size, size, device=sigma.device)
    return matrix.scatter_add_(2, source.expand(len(sigma), -1, -1), kernel[:, None].expand(-1, size, -1).contiguous())


def resample(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Applies a matrix to each axis: (B, 3, h, w) of any type, (B, H, h), (B, W, w) -> float32 (B, 3, H, W)."""
    wide = product(columns, image.float().flatten(1, 2).mT).mT  # (B, 3 * h, W)
    return product(rows, wide.unflatten(1, (3, -1)).flatten(0, 1)).unflatten(0, (-1, 3))


def product(matrix: Tensor, x: Tensor) -> Tensor:
    """Computes ``matrix @ x`` for matrices whose entries lie near the diagonal, such as a resize or a blur.

    On a CPU most of the zeros are skipped, which is three times as fast at 224 pixels; a GPU is faster with them.

    Args:
        matrix: Matrices, (A, M, K); each is applied to the next B / A of ``x``.
        x: Arguments, (B, K, N).

    Returns:
        The products, (B, M, N), laid out in memory as ``x`` is.
    """
    count, transposed = len(x) // len(matrix), not x[0].is_contiguous()
    if x.device.type != 'cpu' or x.shape[1] <= 2 * _BAND_ROWS or x.requires_grad:
        return (matrix[:, None] @ x.unflatten(0, (-1, count))).flatten(0, 1)
    shape = len(x), matrix.shape[1], x.shape[2]
    out = x.new_empty(shape[0], shape[2], shape[1]).mT if transposed else x.new_empty(shape)
    for first in range(0, shape[1], _BAND_ROWS):
        rows = slice(first, first + _BAND_ROWS)
        band = matrix[:, rows]
        for i, span in enumerate(_nonzero_columns(band)):
            for j in range(i * count, (i + 1) * count):
                torch.mm(band[i, :, span], x[j, span], out=out[j, rows])
    return out


def _nonzero_columns(matrix: Tensor) -> list[slice]:
    """Returns the range from the first to the last nonzero column of each matrix, (B, M, K)."""
    nonzero = (matrix != 0).any(1).byte()  # (B, K)
    first, after = nonzero.argmax(1), nonzero.shape[1] - nonzero.flip(1).argmax(1)
    return [slice(*ends) for ends in torch.stack([first, after], 1).tolist()]


class ImageViews(ABC):
    """Augmentation of images in training."""

    @abstractmethod
    def __call__(self, image: Tensor, row: Tensor, size: int, *, seed: int, epoch: int, view: int) -> Tensor:
        """Makes one view of each image.

        Args:
            image: uint8 (B, 3, h, w).
            row: Row of each image, int64 (B,). Row, seed, epoch and view together determine the random numbers.
            size: Side H of the view in pixels.
            seed: Seed of the run.
            epoch: Epoch, counted from 0.
            view: Which of an image's views, counted from 0.

        Returns:
            Float (B, 3, H, H) in [0, 1].
        """


class CleanView(ImageViews):
    """The whole image, resized if necessary: for scores, evaluation, and training without augmentation."""

    def __call__(self, image: Tensor, row: Tensor, size: int, *, seed: int, epoch: int, view: int) -> Tensor:
        pixels = image.float() / 255
        if image.shape[-1] == size:
            return pixels
        zero, full = torch.zeros(1, device=image.device), torch.full((1,), float(image.shape[-1]), device=image.device)
        matrix = interpolation(zero, full, image.shape[-1], size)
        return resample(pixels, matrix, matrix).clamp(0, 1)


class SimCLRViews(ImageViews):
    """SimCLR's random crop, flip, color jitter, grayscale and blur (Chen et al., 2020, appendix A), as in SafeCLIP.

    Args:
        crop_scale: Smallest and largest area of the crop, as fractions of the image.
        crop_ratio: Smallest and largest aspect ratio of the crop, width over height.
        flip: Probability of a horizontal flip.
        jitter: Probability of color jitter.
        brightness: Largest relative change of brightness.
        contrast: Largest relative change of contrast.
        saturation: Largest relative change of saturation.
        hue: Largest rotation of the hue, in full turns.
        gray: Probability of grayscale.
        blur: Probability of a Gaussian blur. SimCLR uses 0.5, and 0 at 32 pixels; SafeCLIP's code always blurs.
        blur_sigma: Smallest and largest standard deviation of the blur, in pixels of a 224-pixel image; scaled to
            the size of the view.

    Raises:
        UsageError: If a number is out of its range, or a range not in ascending order.

    Example:
        >>> image = torch.zeros(2, 3, 40, 40, dtype=torch.uint8)
        >>> view = SimCLRViews()(image, torch.tensor([0, 1]), 32, seed=0, epoch=0, view=0)
        >>> view.shape, view.dtype
        (torch.Size([2, 3, 32, 32]), torch.float32)
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
        if not 0 < crop_ratio[0] <= crop_ratio[1] < math.inf:
            raise UsageError(f'data.image_views.crop_ratio must be two ratios, least first, got {crop_ratio}.')
        if not 0 <= blur_sigma[0] <= blur_sigma[1] < math.inf:
            raise UsageError(f'data.image_views.blur_sigma must be two lengths, least first, got {blur_sigma}.')
        for name, value in (('flip', flip), ('jitter', jitter), ('hue', hue), ('gray', gray), ('blur', blur)):
            check_number(f'data.image_views.{name}', value, '[0, 1]')
        for name, value in (('brightness', brightness), ('contrast', contrast), ('saturation', saturation)):
            check_number(f'data.image_views.{name}', value, '[0, inf)')
        self.crop_scale, self.crop_ratio, self.flip = crop_scale, crop_ratio, flip
        self.jitter, self.gray, self.blur, self.blur_sigma = jitter, gray, blur, blur_sigma
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue

    def __call__(self, image: Tensor, row: Tensor, size: int, *, seed: int, epoch: int, view: int) -> Tensor:
        u = uniform(seed, epoch, row, view, 13)
        # A CPU is twice as fast with chunks that fit into its cache, and need no new memory from the system each time.
        count = max(1, _CPU_CHUNK_PIXELS // image[0, 0].numel()) if image.device.type == 'cpu' else len(image)
        views = [self._make_views(*part, size) for part in zip(image.split(count), u.split(count), strict=True)]
        return torch.cat(views) if len(views) > 1 else views[0]

    def _make_views(self, image: Tensor, u: Tensor, size: int) -> Tensor:
        """Makes the views determined by uniform random numbers, (B, 13)."""
        rows, columns = self._crop(u[:, :5], image.shape[-2], image.shape[-1], size)
        if self.blur:
            blur = self._blur(u[:, 5:7], size)
            rows, columns = product(blur, rows), product(blur, columns)
        return self._color(resample(image, rows.div_(255), columns), u[:, 7:])

    def _crop(self, u: Tensor, height: int, width: int, size: int) -> tuple[Tensor, Tensor]:
        """Crops, flips and resizes by a row and a column matrix; a crop too wide or high is cut to the image."""
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
        """Builds blur matrices, the identity for images that are not blurred."""
        low, high = (x * size / 224 for x in self.blur_sigma)
        sigma = torch.where(u[:, 0] < self.blur, low + (high - low) * u[:, 1], torch.zeros_like(u[:, 0]))
        return gaussian(sigma, size, reach=max(1, size // 20))  # a kernel of a tenth of the side, as in SimCLR

    def _color(self, image: Tensor, u: Tensor) -> Tensor:
        """Applies jitter and grayscale as one affine map of each image's channels."""
        gray = _constant(_GRAY, image.device)
        eye, to_gray = torch.eye(3, device=image.device), gray.expand(3, 3)
        spread = _constant((self.brightness, self.contrast, self.saturation), image.device)
        factor = (1 + spread * (2 * u[:, 1:4] - 1)).clamp(min=0)
        on = u[:, :1] < self.jitter
        brightness, contrast, saturation = torch.where(on, factor, torch.ones_like(factor)).T[..., None, None]
        turn = torch.where(on[:, 0], self.hue * (2 * u[:, 4] - 1), torch.zeros_like(u[:, 4]))
        hue = hue_matrix(turn)
        mean = (image.mean((-2, -1)) @ gray)[
            :, None, None
        ] * brightness  # luma that contrast leaves unchanged, (B, 1, 1)
        matrix = hue @ (saturation * eye + (1 - saturation) * to_gray) * (brightness * contrast)
        offset = (1 - contrast) * mean  # equal in all channels, so saturation, hue and grayscale do not change it
        matrix = torch.where((u[:, 5] < self.gray)[:, None, None], to_gray @ matrix, matrix)
        pixels = torch.baddbmm(offset.expand(-1, 3, 1), matrix, image.flatten(2))
        return pixels.clamp_(0, 1).view_as(image)


def hue_matrix(turn: Tensor) -> Tensor:
    """Builds rotations of YIQ's chroma plane, from red to green, by ``turn`` full turns: (B,) -> (B, 3, 3) in RGB."""
    to_yiq, to_rgb = _color_spaces(turn.device)
    cos, sin = torch.cos(2 * math.pi * turn), torch.sin(2 * math.pi * turn)
    rotation = torch.zeros(len(turn), 3, 3, device=turn.device)
    rotation[:, 0, 0] = 1
    rotation[:, 1, 1], rotation[:, 1, 2], rotation[:, 2, 1], rotation[:, 2, 2] = cos, sin, -sin, cos
    return to_rgb @ rotation @ to_yiq


@cache
def _color_spaces(device: torch.device) -> tuple[Tensor, Tensor]:
    """Matrices from RGB to YIQ and back, (3, 3). Inverting on a GPU would wait for it."""
    with torch.inference_mode(False):
        to_yiq = torch.tensor(_YIQ)
        return to_yiq.to(device), torch.linalg.inv(to_yiq).to(device)
