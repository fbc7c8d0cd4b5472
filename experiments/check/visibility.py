"""How visible a trigger is, and how much of it reaches the model.

The *trace* of a trigger is the difference between a picture with it and the same picture without it, after the same
processing: for a view, the same crop, flip and colors. Its energy is its mean square over pixels and channels, for
values in [0, 1], so that resizing the whole picture preserves it.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from datamodules.pairs import PairsDataModule
from datamodules.pictures.augment import STD
from datamodules.pictures.batches import CLEAN, PairBatch

MIN_VISIBLE_ENERGY_SHARE = 0.1  # of the energy in the stored picture; less is left if a crop has cut the trigger off
JPEG_QUALITY = 75  # PIL's default


@dataclass(frozen=True)
class Trace:
    """What a trigger does to pictures, and how much of it is left.

    Attributes:
        psnr: Peak signal-to-noise ratio between stored pictures with and without the trigger, in dB; infinite if
            they are the same.
        ssim: Structural similarity of the two, 1 if they are the same; NaN below 11 pixels a side.
        changed: Share of the pixels that the trigger changes.
        resized: Energy in the clean view over that in the stored picture: how much is left at test time.
        survival: Energy in the views of training over that in the stored picture, the mean over pictures and views.
            Over many views, what crops cut off and what they magnify cancel out; 1 means no loss.
        visible: Share of these views that keep at least a tenth of the energy.
        consistency: Mean :func:`measure_likeness` of the traces of two pictures in two views, over pairs of views that
            show the trigger. At 1, a model can learn one thing from all of them.
        jpeg: Share of the trace that is still in place after compression to a JPEG of quality 75, as
            :func:`measure_remainder` has it. No run does this, but somebody who exports poison to files may.
    """

    psnr: float
    ssim: float
    changed: float
    resized: float
    survival: float
    visible: float
    consistency: float
    jpeg: float


def measure_trace(
    data: PairsDataModule, plain: np.ndarray, triggered: np.ndarray, rows: np.ndarray, views: int
) -> Trace:
    """Measures a trigger on some pictures of a run.

    Args:
        data: The run's data after ``setup``, whose views are used.
        plain: Stored pictures without the trigger, uint8 (n, 3, h, w).
        triggered: The same pictures with it.
        rows: Row of each picture, int64 (n,), which its views are drawn by.
        views: Number of epochs whose views to measure.
    """
    before, after = to_fractions(plain), to_fractions(triggered)
    stored = after - before
    traces = [make_view(data, triggered, rows, epoch) - make_view(data, plain, rows, epoch) for epoch in range(views)]
    view_energy, stored_energy = torch.stack([measure_energy(trace) for trace in traces]), measure_energy(stored)
    visible = view_energy >= MIN_VISIBLE_ENERGY_SHARE * stored_energy.clamp(min=torch.finfo().tiny)
    clean = make_view(data, triggered, rows, CLEAN) - make_view(data, plain, rows, CLEAN)
    jpeg = to_fractions(compress_jpeg(triggered)) - to_fractions(compress_jpeg(plain))
    changed = (stored != 0).any(1).float().mean()
    similarity = structural_similarity_index_measure(after, before, data_range=1.0)
    assert isinstance(similarity, Tensor)  # a tuple only if the full image is asked for
    return Trace(
        psnr=float(peak_signal_noise_ratio(after, before, data_range=1.0)) if stored_energy.any() else math.inf,
        ssim=float(similarity),
        changed=float(changed),
        resized=_divide_means(measure_energy(clean), stored_energy),
        survival=_divide_means(view_energy, stored_energy),
        visible=float(visible.float().mean()),
        consistency=measure_consistency(traces, visible),
        jpeg=measure_remainder(jpeg, stored),
    )


def make_view(data: PairsDataModule, pictures: np.ndarray, rows: np.ndarray, epoch: int) -> Tensor:
    """The first view of pictures in an epoch, made like that of every batch: float (n, 3, H, H).

    Of the normalization, only the division by each channel's deviation is undone. Differences between views are
    therefore in units of [0, 1], but values are shifted by the channel mean.

    Args:
        data: The run's data.
        pictures: Stored pictures, uint8 (n, 3, h, w).
        rows: Row of each picture, int64 (n,), which fixes the randomness together with the epoch.
        epoch: Epoch, counted from 0; ``CLEAN`` for the clean view.
    """
    batch = PairBatch(
        torch.from_numpy(np.array(pictures)), torch.zeros(1, len(rows), 1, dtype=torch.int64),
        torch.tensor(rows), len(rows), epoch,
    )  # fmt: skip
    image: Tensor = data.on_after_batch_transfer(batch, 0).image[0]
    return image * torch.tensor(STD).view(3, 1, 1)


def to_fractions(pictures: np.ndarray) -> Tensor:
    """Converts uint8 pictures to floats in [0, 1]."""
    return torch.from_numpy(np.array(pictures)).float() / 255


def measure_energy(trace: Tensor) -> Tensor:
    """Mean square of each trace, (..., 3, H, W) -> (...)."""
    return trace.square().mean((-3, -2, -1))


def measure_consistency(traces: list[Tensor], visible: Tensor) -> float:
    """Mean likeness between the trace of each picture in each view and that of another picture in another view.

    Args:
        traces: Traces of each view, (n, 3, H, W).
        visible: Whether each view shows the trigger, bool (V, n).

    Returns:
        Mean in [-1, 1]; 0 if no two compared views show the trigger.
    """
    likenesses = []
    for view, trace in enumerate(traces):  # one at a time: the Fourier transforms of all views would fill the memory
        both = visible[view] & visible[view - 1].roll(1)
        if both.any():  # torch 2.14 with MKL refuses the Fourier transform of an empty batch
            likenesses.append(measure_likeness(trace[both], traces[view - 1].roll(1, 0)[both]))
    return float(torch.cat(likenesses).mean()) if likenesses else 0.0


def measure_likeness(a: Tensor, b: Tensor) -> Tensor:
    """Largest cosine between traces over all cyclic shifts and a flip of one of them.

    It is 1 for the same trace elsewhere, and 0.1 to 0.2 for independent noise of 32 pixels, being a maximum.

    Args:
        a: Traces, (n, 3, H, W), none of them zero.
        b: Other traces of the same shape.

    Returns:
        Cosines in [-1, 1], (n,).
    """
    spectrum, size = torch.fft.rfft2(a), a.shape[-2:]
    best = torch.full((len(a),), -math.inf)
    for other in (b, b.flip(-1)):
        product = (spectrum * torch.fft.rfft2(other).conj()).sum(1)
        best = torch.maximum(best, torch.fft.irfft2(product, size).flatten(1).amax(1))
    return best / (a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1))


def compress_jpeg(pictures: np.ndarray) -> np.ndarray:
    """Pictures after compression to JPEG: uint8 (n, 3, h, w)."""
    copies = []
    for picture in pictures:
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).save(file, 'JPEG', quality=JPEG_QUALITY)
        copies.append(np.asarray(Image.open(file)).transpose(2, 0, 1))
    return np.stack(copies)


def measure_remainder(after: Tensor, before: Tensor) -> float:
    """How much of traces is left in place: the inner product of after and before, over the energy before.

    Artifacts of compression elsewhere in the picture also have energy, but do not count, as they are not the trigger.

    Args:
        after: Traces after processing that moves nothing, (n, 3, h, w).
        before: Traces before processing.

    Returns:
        1 if nothing has changed, 0 if nothing is left or nothing was there.
    """
    energy = float(before.square().sum())
    return float((after * before).sum()) / energy if energy else 0.0


def _divide_means(energy: Tensor, stored_energy: Tensor) -> float:
    """Ratio of the two means, 0 if the second is zero."""
    stored_mean = float(stored_energy.mean())
    return float(energy.mean()) / stored_mean if stored_mean else 0.0
