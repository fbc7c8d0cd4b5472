"""Cost of SafeCLIP's epochs relative to CLIP's in a Lightning loop: loading, views, both towers and the optimizer."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback

from datamodules.contracts import pairs_of
from datamodules.pictures.augment import SimCLRViews
from datamodules.rows.partition import RISKY
from datamodules.text.eda import EDA
from datamodules.toy_pairs import ToyPairs
from experiments.bench.measure import Result
from lightning_modules.clip import CLIP
from lightning_modules.safeclip import SafeCLIP

BATCH, STEPS = 64, 9
REPEATS = 9
MODEL = 'tiny_toy.json'


def toy_pairs(folder: str, **kwargs: Any) -> ToyPairs:
    """Toy pairs with augmented images and captions, as in ``safeclip_toy.yaml``."""
    defaults: dict[str, Any] = {'rows': BATCH * STEPS, 'heldout_rows': BATCH, 'batch_size': BATCH, 'cache_dir': folder}
    images = SimCLRViews(crop_scale=(0.3, 1.0), blur=0.0)
    return ToyPairs(image_views=images, caption_views=EDA(operations=('swap', 'deletion')), **defaults | kwargs)


def trainer(epochs: int, *callbacks: Callback) -> L.Trainer:
    """A trainer without evaluation, logging and checkpoints."""
    return L.Trainer(
        accelerator='cpu', max_epochs=epochs, reload_dataloaders_every_n_epochs=1, use_distributed_sampler=False,
        callbacks=list(callbacks), limit_val_batches=0, num_sanity_val_steps=0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


class StepClock(Callback):
    """Measures CPU time from the end of one step to the end of the next.

    Attributes:
        seconds: CPU seconds of each step of the first epoch, except the first step, which waits for the loader.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._since = 0.0

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        now = time.process_time()
        if trainer.current_epoch == 0:
            self.seconds += [now - self._since] if trainer.fit_loop.batch_idx else []
        self._since = time.process_time()


class HalfRisky(Callback):
    """Puts every other pair on the risky side, as a defense would."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        # In setup, because the schedule asks for the number of steps, which already builds the first loader.
        pairs_of(trainer).partition.side[::2] = RISKY


def epoch_seconds(module: CLIP, data: ToyPairs) -> np.ndarray:
    """CPU seconds of each step of one epoch."""
    clock = StepClock()
    trainer(1, HalfRisky(), clock).fit(module, datamodule=data)
    return np.array(clock.seconds)


def measure() -> Iterator[Result]:
    """Compares epochs with the same number of steps and pairs, by the shortest of several repeats of each step."""
    modules = {
        'one view': CLIP(architecture=MODEL, views=1),
        'two views': CLIP(architecture=MODEL, views=2),
        'unimodal': SafeCLIP(architecture=MODEL, views=2, unimodal_epochs=1),
        'mixed': SafeCLIP(architecture=MODEL, views=2, unimodal_epochs=0, slow_epochs=0),
        'mixed, one safe view': SafeCLIP(architecture=MODEL, views=1, unimodal_epochs=0, slow_epochs=0),
    }
    with tempfile.TemporaryDirectory() as folder:
        data = toy_pairs(folder)
        repeats = [{name: epoch_seconds(module, data) for name, module in modules.items()} for _ in range(REPEATS)]
    epoch = {name: float(np.min([seconds[name] for seconds in repeats], axis=0).sum()) for name in modules}
    one, two = epoch['one view'], epoch['two views']
    yield Result('unimodal epoch over a two-view CLIP epoch', epoch['unimodal'] / two, target=1.05)
    yield Result('mixed epoch, two views on both sides, over a two-view CLIP epoch', epoch['mixed'] / two, target=1.05)
    yield Result('unimodal epoch over a one-view CLIP epoch', epoch['unimodal'] / one)
    yield Result(
        'mixed epoch, two views on the risky side, over a one-view CLIP epoch', epoch['mixed, one safe view'] / one
    )
    yield Result('two-view CLIP epoch over a one-view one', two / one)
