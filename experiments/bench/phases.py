"""Where the time of a training step goes, in CLIP and in each phase of SafeCLIP, from runs of the training loop."""

from __future__ import annotations

import csv
import functools
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loops.optimization.automatic import Closure
from PIL import Image
from torch import Tensor
from torch.optim import AdamW

from callbacks.epoch_cost import EpochCost
from datamodules.csv_pairs import CSVPairs
from datamodules.pairs import PairsDataModule
from datamodules.pictures.augment import SimCLRViews
from datamodules.pictures.batches import PairDataset
from datamodules.text.eda import EDA
from experiments.bench.epochs import HalfRisky
from experiments.bench.measure import Result
from experiments.bench.views import photo
from lightning_modules.clip import CLIP
from lightning_modules.safeclip import SafeCLIP

Seconds = defaultdict[str, float]
MODEL = ('image tower', 'text tower', 'losses')
OTHERS = ('pictures', 'captions', 'views', 'optimizer', 'rest')
TIMED: dict[tuple[type, str], str] = {  # a method inside another takes its time away from the outer one
    (PairDataset, '__getitem__'): 'pictures',
    (PairDataset, '_tokenize_views'): 'captions',
    (PairsDataModule, 'on_after_batch_transfer'): 'views',
    (CLIP, 'encode_image'): 'image tower',
    (CLIP, 'encode_text'): 'text tower',
    (CLIP, 'losses'): 'losses',
    (SafeCLIP, 'losses'): 'losses',
    (CLIP, 'backward'): 'losses',  # until their gradients reach a tower
    (CLIP, 'optimizer_zero_grad'): 'optimizer',
    (AdamW, 'step'): 'optimizer',
    (Closure, '__call__'): 'rest',  # which AdamW calls: forward and backward pass with Lightning's own work
}
CAPTION = 'a photo of a thing number {} on a table beside two others'  # 13 tokens, as many as CC3M's have on average


class Scale(NamedTuple):
    """A model with pictures and batches of its size.

    Attributes:
        architecture: The model.
        pixels: Side of its pictures.
        photo: Side of the JPEG files in pixels, width and height.
        views: Image augmentation.
        batch: Pairs in a batch.
        steps: Steps of an epoch. The first is not measured.
    """

    architecture: str
    pixels: int
    photo: tuple[int, int]
    views: dict[str, Any]
    batch: int
    steps: int


SCALES = (
    Scale('small32.json', 32, (32, 32), {'crop_scale': (0.5, 1.0), 'blur': 0.0}, 128, 13),
    Scale('ViT-S-16', 224, (640, 480), {}, 16, 3),
)
PHOTOS = 16  # different ones
SOURCES: dict[str, Any] = {'the cache': 'memmap', 'JPEG files': 'none'}
MAX_REST = 5.0  # % of a step


class PartClock:
    """Books the CPU time of this process to the part of a step that is being worked on.

    Attributes:
        seconds: CPU seconds of each part so far.
    """

    def __init__(self) -> None:
        self.seconds: Seconds = defaultdict(float)
        self._parts = ['rest']
        self._since = time.process_time()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Books to a part; afterwards to the one before it again."""
        self._book()
        self._parts.append(name)
        try:
            yield
        finally:
            self._book()
            self._parts.pop()

    def switch(self, name: str) -> None:
        """Books to another part from here on, until the end of the present one."""
        self._book()
        self._parts[-1] = name

    def restart(self) -> Seconds:
        """CPU seconds of each part since the last call."""
        self._book()
        seconds, self.seconds = self.seconds, defaultdict(float)
        return seconds

    def _book(self) -> None:
        now = time.process_time()
        self.seconds[self._parts[-1]] += now - self._since
        self._since = now


def timed(clock: PartClock, part: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """A method whose time is booked to a part, and the backward pass from its result on, if that is a tensor.

    The backward pass goes through what was computed last first: all losses, then one tower, then the other. So a tower
    begins where the gradient of its embeddings arrives, and ends where the next begins.
    """

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        with clock.part(part):
            result = method(*args, **kwargs)
            if isinstance(result, Tensor) and result.grad_fn is not None:
                result.register_hook(lambda _: clock.switch(part))
            return result

    return call


@contextmanager
def booking(clock: PartClock) -> Iterator[None]:
    """Times the methods of all parts, wherever they are called."""
    with ExitStack() as patches:
        for (owner, name), part in TIMED.items():
            patches.enter_context(patch.object(owner, name, timed(clock, part, getattr(owner, name))))
        yield


class PhaseClock(Callback):
    """Adds up the parts of the steps of each phase, except the first step of an epoch, which waits for the loader.

    Args:
        clock: The clock of the parts.

    Attributes:
        seconds: CPU seconds of each part, by phase.
    """

    def __init__(self, clock: PartClock) -> None:
        self.clock = clock
        self.seconds: dict[str, Seconds] = {}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        step = self.clock.restart()
        if trainer.fit_loop.batch_idx and isinstance(pl_module, CLIP):
            phase = self.seconds.setdefault(pl_module.phase(trainer.current_epoch), defaultdict(float))
            for part, seconds in step.items():
                phase[part] += seconds


def write_pairs(folder: Path, scale: Scale) -> None:
    """Writes JPEG files and the list of them."""
    pictures = [photo(seed).resize(scale.photo, Image.Resampling.BILINEAR) for seed in range(PHOTOS)]
    with open(folder / 'pairs.csv', 'w', newline='') as file:
        lines = csv.writer(file)
        lines.writerow(['filepath', 'title'])
        for number in range(scale.batch * scale.steps):
            pictures[number % PHOTOS].save(folder / f'{number}.jpg', quality=90)
            lines.writerow([f'{number}.jpg', CAPTION.format(number)])


def train(module: CLIP, data: CSVPairs, epochs: int) -> dict[str, Seconds]:
    """CPU seconds of each part in the phases of a run, with the precision and the log of the shipped recipes."""
    phases = PhaseClock(PartClock())
    with booking(phases.clock):
        trainer = L.Trainer(
            accelerator='cpu', precision='bf16-mixed', max_epochs=epochs, reload_dataloaders_every_n_epochs=1,
            use_distributed_sampler=False, callbacks=[HalfRisky(), EpochCost(), phases],
            logger=CSVLogger(data.cache_dir), log_every_n_steps=10, limit_val_batches=0, num_sanity_val_steps=0,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, datamodule=data)
    return phases.seconds


def shares(seconds: Mapping[str, float]) -> dict[str, float]:
    """Per cent of a step that each part takes."""
    whole = sum(seconds.values())
    return {part: 100 * seconds.get(part, 0.0) / whole for part in (*MODEL, *OTHERS)}


def describe(share: Mapping[str, float], parts: tuple[str, ...]) -> str:
    """Shares of some parts in words."""
    return ', '.join(f'{part} {share[part]:.1f}' for part in parts)


def measure() -> Iterator[Result]:
    """Shares of a step that are not the model's arithmetic, with all parts named, and the largest rest."""
    rests = []
    for scale in SCALES:
        with tempfile.TemporaryDirectory() as folder:
            write_pairs(Path(folder), scale)
            for source in SOURCES:
                for phase, seconds in phases_of(scale, source, Path(folder)).items():
                    share = shares(seconds)
                    rests.append(share['rest'])
                    what = f'{phase} step at {scale.pixels} pixels from {source}'
                    parts = f'{describe(share, OTHERS)}; {describe(share, MODEL)}'
                    yield Result(f'{what}, not the model: {parts}', sum(share[part] for part in OTHERS), '%')
    what = 'largest rest of a step: Lightning, logging and Python'
    yield Result(what, float(np.max(rests)), '%', target=MAX_REST)


def phases_of(scale: Scale, source: str, folder: Path) -> dict[str, Seconds]:
    """CPU seconds of each part in CLIP with one view, and in an epoch of each phase of SafeCLIP."""
    data: dict[str, Any] = {
        'train': str(folder / 'pairs.csv'), 'batch_size': scale.batch, 'cache': SOURCES[source],
        'cache_dir': str(folder / 'cache'), 'image_views': SimCLRViews(**scale.views), 'caption_views': EDA(),
    }  # fmt: skip
    clip = CLIP(scale.architecture, channels_last=True)
    safeclip = SafeCLIP(1, 1, architecture=scale.architecture, channels_last=True)
    return train(clip, CSVPairs(**data), 1) | train(safeclip, CSVPairs(**data), 3)
