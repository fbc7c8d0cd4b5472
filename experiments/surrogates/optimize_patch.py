"""Makes the file for ``OptimizedPatch``: a patch that a surrogate takes for the target class."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import count, islice

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from datamodules.attacks import AttackPool, Backdoor, Patch, PicturePatch, Pixels, Trigger
from datamodules.files.atomic import write_atomically
from datamodules.usage_error import UsageError
from experiments.surrogates.surrogate import Surrogate
from lightning_modules.adversarial import PatchBatch, optimize_patch


def make_patch(
    surrogate: Surrogate, start: Patch, target: str, file: str, steps: int, batch: int, lr: float, augment: bool
) -> None:
    """Optimizes a patch on training images, writes it as a PNG, and prints its success on other images.

    Args:
        surrogate: Model to optimize on, with clean pairs.
        start: The patch to start from, with its position.
        target: Name of the class that the patch should look like.
        file: Path of the PNG to write.
        steps: Number of steps of Adam.
        batch: Number of images in a step.
        lr: Learning rate, for values in [0, 1].
        augment: Optimize on augmented views, as in training, rather than on the pictures as they are.

    Raises:
        UsageError: If a number is out of range, or no training image shows the class.
    """
    if steps < 1 or batch < 1 or lr <= 0:
        raise UsageError(f'steps and batch must be 1 or more and lr positive, got {steps}, {batch} and {lr}.')
    pool, pixels = surrogate.data.attack_pool(), surrogate.data.pictures
    index = pool.index(target)
    others, shown = pool.allowed('train', index), pool.showing('train', index)
    if not len(shown):
        raise UsageError(
            f'no training image shows {target!r}, which the patch should look like: choose another target.'
        )
    if pool.heldout is None:
        others = others[::2]
        pool.taken['train'].update(others.tolist())  # success is measured on the other half
    batches = _draw_batches(
        surrogate, start, pixels, others, surrogate.embed_pictures(pixels('train', shown)), batch, augment
    )
    progress = tqdm(islice(batches, steps), 'optimizing the patch', steps, leave=False, disable=None)
    assert start.pixels is not None  # not a pattern that varies from image to image
    first, scale = surrogate.pixels(start.pixels), surrogate.model.logit_scale
    _save(optimize_patch(first, progress, surrogate.classifier, index, scale, lr), file)
    _print_success(surrogate, start, target, file, pool, pixels)


def _draw_batches(
    surrogate: Surrogate, start: Patch, pixels: Pixels, others: np.ndarray, shown: Tensor, size: int, augment: bool
) -> Iterator[PatchBatch]:
    """Draws images of other classes, in new views each step, with an embedding of the target class to approach."""
    draw = torch.Generator().manual_seed(start.seed)
    views = surrogate.data.view_makers[0] if augment else None
    for step in count():
        rows = others[torch.randint(len(others), (size,), generator=draw).numpy()]
        images = surrogate.pixels(pixels('train', rows))
        corners = torch.from_numpy(start.corners(images.shape, start.size, rows)).to(images.device)
        positives = shown[torch.randint(len(shown), (size,), generator=draw).to(shown.device)]
        keys = torch.from_numpy(rows).to(images.device)
        yield PatchBatch(images, corners, positives, partial(surrogate.embed, views=views, rows=keys, epoch=step))


def _save(patch: Tensor, file: str) -> None:
    with write_atomically(file) as temporary:
        Image.fromarray((255 * patch).round().byte().permute(1, 2, 0).cpu().numpy()).save(temporary, 'PNG')


def _print_success(
    surrogate: Surrogate, start: Patch, target: str, file: str, pool: AttackPool, pixels: Pixels
) -> None:
    """Prints the success of the patch on images it was not made on, beside that of its start and of no patch."""
    made = PicturePatch(file, None, start.position, start.margin, start.seed)
    triggers: dict[str, Trigger | None] = {'no patch': None, 'the initial noise': start, 'the patch': made}
    print(f'{file}: {start.size} x {start.size} pixels, SHA-256 {made.parameters()["sha256"]}')
    for name, trigger in triggers.items():
        test = Backdoor(target, trigger, count=0).evaluation('patch', [], pool, pixels)
        print(f'{surrogate.measure_success(test):6.1%} of {len(test):,} other images taken for {target!r} with {name}')
