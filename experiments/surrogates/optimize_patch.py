"""Makes the file of an ``OptimizedPatch``: a patch that a surrogate takes for the target class."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import count, islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from datamodules.attacks import AttackPool, Backdoor, Patch, PicturePatch, Pixels, Trigger
from datamodules.usage_error import UsageError
from experiments.surrogates.surrogate import Surrogate
from lightning_modules.adversarial import PatchBatch, optimize_patch


def make_patch(
    surrogate: Surrogate, start: Patch, target: str, file: str, steps: int, batch: int, lr: float, augment: bool
) -> None:
    """Optimizes a patch on training images, writes it as a PNG, and says what it does to other images.

    Args:
        surrogate: What to optimize on, with clean pairs.
        start: The patch to start from, and the places to put it.
        target: Name of the class that it is to look like.
        file: Where to write it.
        steps: Steps of Adam.
        batch: Images in a step.
        lr: Learning rate, in units of [0, 1].
        augment: Show the model the views that training sees, not the pictures as they are.

    Raises:
        UsageError: If a number is out of range, or no training image shows the class.
    """
    if steps < 1 or batch < 1 or lr <= 0:
        raise UsageError(f'steps and batch must be 1 or more and lr positive, got {steps}, {batch} and {lr}.')
    pool, pixels = surrogate.data.clean_pool()
    index = pool.index(target)
    others, shown = pool.allowed('train', index), pool.showing('train', index)
    if not len(shown):
        raise UsageError(f'no training image shows {target!r}, which the patch is to look like: choose another target.')
    if pool.heldout is None:
        others = others[::2]
        pool.taken['train'].update(others.tolist())  # the other half is measured on
    batches = _batches(surrogate, start, pixels, others, surrogate.embeddings(pixels('train', shown)), batch, augment)
    progress = tqdm(islice(batches, steps), 'optimizing the patch', steps, leave=False, disable=None)
    assert start.pixels is not None  # it is the same on all images
    first, scale = surrogate.pixels(start.pixels), surrogate.model.logit_scale
    _save(optimize_patch(first, progress, surrogate.classifier, index, scale, lr), file)
    _tell(surrogate, start, target, file, pool, pixels)


def _batches(
    surrogate: Surrogate, start: Patch, pixels: Pixels, others: np.ndarray, wanted: Tensor, size: int, augment: bool
) -> Iterator[PatchBatch]:
    """Random images of other classes, each beside an image of the target class; other views in each step."""
    draw = torch.Generator().manual_seed(start.seed)
    views = surrogate.data.view_makers[0] if augment else None
    for step in count():
        rows = others[torch.randint(len(others), (size,), generator=draw).numpy()]
        images = surrogate.pixels(pixels('train', rows))
        corners = torch.from_numpy(start.corners(images.shape, start.size, rows)).to(images.device)
        aims = wanted[torch.randint(len(wanted), (size,), generator=draw).to(wanted.device)]
        named = torch.from_numpy(rows).to(images.device)
        yield PatchBatch(images, corners, aims, partial(surrogate.embed, views=views, rows=named, epoch=step))


def _save(patch: Tensor, file: str) -> None:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((255 * patch).round().byte().permute(1, 2, 0).cpu().numpy()).save(file, 'PNG')


def _tell(surrogate: Surrogate, start: Patch, target: str, file: str, pool: AttackPool, pixels: Pixels) -> None:
    """What the file does to images that it was not made on, with the attack's own code, beside what it started from."""
    made = PicturePatch(file, None, start.position, start.margin, start.seed)
    triggers: dict[str, Trigger | None] = {'no patch': None, 'the noise it started from': start, 'it': made}
    print(f'{file}: {start.size} x {start.size} pixels, SHA-256 {made.parameters()["sha256"]}')
    for name, trigger in triggers.items():
        test = Backdoor(target, trigger, count=0).evaluation('patch', [], pool, pixels)
        print(f'{surrogate.success(test):6.1%} of {len(test):,} other images taken for {target!r} with {name}')
