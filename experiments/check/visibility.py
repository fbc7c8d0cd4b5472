"""How visible a trigger is, and what of it outlives the way to the model.

The *trace* of a trigger is a picture with it less the same picture without it, both after the same treatment: for
a view, the same crop, flip and colors. Its energy is the mean of its squares over all pixels and channels, of
values in [0, 1], so that a trace keeps its energy when the whole picture is resized.
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

VISIBLE = 0.1  # of the energy that a trace had: where a crop has cut the trigger off, there is less left
QUALITY = 75  # of JPEG: what PIL writes unless told otherwise


@dataclass(frozen=True)
class Trace:
    """What a trigger does to pictures, and what is left of it.

    Attributes:
        psnr: Peak signal-to-noise ratio of stored pictures with the trigger to those without, in dB; infinite where
            they are the same.
        ssim: Structural similarity of the two, 1 where they are the same; NaN below 11 pixels a side.
        resized: Energy in the clean view, over that in the stored picture: what is left of it at test time.
        survival: The same in the views that training sees, the mean over pictures and views. What a crop cuts off
            and what it magnifies balance each other over many views, and 1 is no loss.
        visible: Share of these views that have at least a tenth of the energy left.
        consistency: How alike the traces of two pictures in two views are, the mean over pairs of views that show
            the trigger, see :func:`likeness`. 1: a model can learn one thing from all of them.
        jpeg: Share of the trace that is still in its place after the stored picture has been a JPEG of quality 75,
            see :func:`in_place`. No run does that; who exports poison or writes it to files may.
    """

    psnr: float
    ssim: float
    resized: float
    survival: float
    visible: float
    consistency: float
    jpeg: float


def trace_of(data: PairsDataModule, plain: np.ndarray, triggered: np.ndarray, rows: np.ndarray, views: int) -> Trace:
    """Measures a trigger on some pictures of a run.

    Args:
        data: The run's data after ``setup``; its own views are taken.
        plain: Stored pictures without the trigger, uint8 (n, 3, h, w).
        triggered: The same with it.
        rows: Row of each, int64 (n,): training draws views by it.
        views: Epochs whose views to take.
    """
    before, with_it = as_fractions(plain), as_fractions(triggered)
    stored = with_it - before
    traces = [seen(data, triggered, rows, epoch) - seen(data, plain, rows, epoch) for epoch in range(views)]
    left, had = torch.stack([energy(trace) for trace in traces]), energy(stored)
    there = left >= VISIBLE * had.clamp(min=torch.finfo().tiny)
    clean = seen(data, triggered, rows, CLEAN) - seen(data, plain, rows, CLEAN)
    jpeg = as_fractions(through_jpeg(triggered)) - as_fractions(through_jpeg(plain))
    similarity = structural_similarity_index_measure(with_it, before, data_range=1.0)
    assert isinstance(similarity, Tensor)  # a tuple only where more is asked for
    return Trace(
        psnr=float(peak_signal_noise_ratio(with_it, before, data_range=1.0)) if had.any() else math.inf,
        ssim=float(similarity),
        resized=_over(energy(clean), had),
        survival=_over(left, had),
        visible=float(there.float().mean()),
        consistency=consistency(traces, there),
        jpeg=in_place(jpeg, stored),
    )


def seen(data: PairsDataModule, pictures: np.ndarray, rows: np.ndarray, epoch: int) -> Tensor:
    """The first view of pictures in an epoch, by the way of every batch: float (n, 3, H, H), differences in [0, 1].

    Only normalized by the deviation of each channel undone: differences are in units of [0, 1], values are not.

    Args:
        data: The run's data.
        pictures: Stored pictures, uint8 (n, 3, h, w).
        rows: Row of each, int64 (n,); with the epoch it fixes the randomness.
        epoch: Epoch, counted from 0; ``CLEAN`` for the clean view.
    """
    batch = PairBatch(
        torch.from_numpy(np.array(pictures)), torch.zeros(1, len(rows), 1, dtype=torch.int64),
        torch.tensor(rows), len(rows), epoch,
    )  # fmt: skip
    image: Tensor = data.on_after_batch_transfer(batch, 0).image[0]
    return image * torch.tensor(STD).view(3, 1, 1)


def as_fractions(pictures: np.ndarray) -> Tensor:
    """uint8 pictures as floats in [0, 1]."""
    return torch.from_numpy(np.array(pictures)).float() / 255


def energy(trace: Tensor) -> Tensor:
    """Mean square of each trace, (..., 3, H, W) -> (...)."""
    return trace.square().mean((-3, -2, -1))


def consistency(traces: list[Tensor], there: Tensor) -> float:
    """Mean likeness of the traces of each picture in each view to the next picture's in the view before.

    Args:
        traces: Of each view, (n, 3, H, W).
        there: Whether a view shows the trigger, bool (V, n).

    Returns:
        In [-1, 1]; 0 if no pair of views shows it.
    """
    likenesses = []
    for view, trace in enumerate(traces):  # one at a time: Fourier transforms of all would fill the memory
        both = there[view] & there[view - 1].roll(1)
        if both.any():  # torch 2.14 with MKL refuses the Fourier transform of an empty batch
            likenesses.append(likeness(trace[both], traces[view - 1].roll(1, 0)[both]))
    return float(torch.cat(likenesses).mean()) if likenesses else 0.0


def likeness(a: Tensor, b: Tensor) -> Tensor:
    """Largest cosine between traces over all shifts of one of them, around the edges, and a flip.

    The same trace at another place is 1; independent noise is 0.1 to 0.2 at 32 pixels, since the largest is taken.

    Args:
        a: Traces, (n, 3, H, W), none of them zero.
        b: Others, of that shape.

    Returns:
        In [-1, 1], (n,).
    """
    spectrum, size = torch.fft.rfft2(a), a.shape[-2:]
    best = torch.full((len(a),), -math.inf)
    for other in (b, b.flip(-1)):
        product = (spectrum * torch.fft.rfft2(other).conj()).sum(1)
        best = torch.maximum(best, torch.fft.irfft2(product, size).flatten(1).amax(1))
    return best / (a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1))


def through_jpeg(pictures: np.ndarray) -> np.ndarray:
    """What pictures are after they have been written as JPEG: uint8 (n, 3, h, w)."""
    copies = []
    for picture in pictures:
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).save(file, 'JPEG', quality=QUALITY)
        copies.append(np.asarray(Image.open(file)).transpose(2, 0, 1))
    return np.stack(copies)


def in_place(after: Tensor, before: Tensor) -> float:
    """How much of some traces is left where it was: their inner product with what they were, over the energy of that.

    What the compression does to the picture around the trigger is energy too, but nothing of the trigger, and does
    not count.

    Args:
        after: Traces after a treatment that moves nothing, (n, 3, h, w).
        before: Traces before it.

    Returns:
        1 where they are as they were, 0 where nothing is left or nothing was there.
    """
    had = float(before.square().sum())
    return float((after * before).sum()) / had if had else 0.0


def _over(left: Tensor, had: Tensor) -> float:
    """Mean of what is left over the mean of what was there, 0 if that was nothing."""
    whole = float(had.mean())
    return float(left.mean()) / whole if whole else 0.0
