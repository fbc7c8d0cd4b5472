"""Cost of a split relative to an epoch of training, and accuracy of the cheap split by a running average."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback
from scipy.stats import spearmanr

from callbacks.repartition import SafeRiskyRepartition, top_rows
from callbacks.scores import Clean, Running
from callbacks.sweep import sweep
from datamodules.attacks import BadNet, TargetedPoison
from datamodules.contracts import pairs_of
from experiments.bench.epochs import BATCH, MODEL, StepClock, toy_pairs, trainer
from experiments.bench.measure import Result
from lightning_modules.safeclip import SafeCLIP

STEPS, REPEATS = 24, 5
ROWS, EPOCHS = 3000, 5  # of the run that compares the running average with a sweep
SHARE = 0.15  # share of safe pairs, so small that a third of all pairs is enough to measure again


class SplitClock(SafeRiskyRepartition):
    """Measures the CPU time of everything that a split does.

    Attributes:
        seconds: CPU seconds of each epoch.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seconds = [0.0, 0.0]

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._add_time(trainer, lambda: super(SplitClock, self).on_train_epoch_start(trainer, pl_module))

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self._add_time(trainer, lambda: super(SplitClock, self).on_train_batch_end(trainer, *args))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._add_time(trainer, lambda: super(SplitClock, self).on_train_epoch_end(trainer, pl_module))

    def _add_time(self, trainer: L.Trainer, hook: Callable[[], None]) -> None:
        start = time.process_time()
        hook()
        self.seconds[trainer.current_epoch] += time.process_time() - start


class Sweep(Callback):
    """Measures the similarity of all pairs at the end of training, for comparison with the running average."""

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data = pairs_of(trainer)
        self.score = sweep(trainer, pl_module, data.sweep_dataloader(), len(data.partition)).numpy()


def measure() -> Iterator[Result]:
    """Measures the cost of each kind of split, then compares the running average with a sweep."""
    with tempfile.TemporaryDirectory() as folder:
        yield from costs(folder)
        yield from quality(folder)


def costs(folder: str) -> Iterator[Result]:
    """Measures one epoch of CLIP, a split, an epoch on both sides and a split of the most similar pairs."""
    data = toy_pairs(folder, rows=BATCH * STEPS)
    modules = {views: SafeCLIP(architecture=MODEL, views=views, unimodal_epochs=0) for views in (1, 2)}
    times: dict[str, list[Any]] = {name: [] for name in ('one', 'two', 'full', 'top', 'running')}
    for _ in range(REPEATS):
        for views, score in ((1, Clean()), (2, Clean()), (1, Running())):
            top = {'top_fraction': 0.3, 'cap': SHARE} if score.sweeps else {}
            clock, split = StepClock(), SplitClock(score=score, **top)
            trainer(2 if views == 1 else 1, split, clock).fit(modules[views], datamodule=data)
            if not score.sweeps:
                times['running'].append(split.seconds[0])
                continue
            times['one' if views == 1 else 'two'].append(clock.seconds)
            times['full'].append(split.seconds[0])
            times['top'] += [split.seconds[1]] if views == 1 else []
    # The first step of an epoch is not timed, so it is counted as an average one.
    one, two = (float(np.min(times[name], axis=0).mean()) * STEPS for name in ('one', 'two'))
    full, top, running = (min(times[name]) for name in ('full', 'top', 'running'))
    yield Result('full split (sweep, mixture, sides) over a two-view CLIP epoch', full / two, target=0.15)
    yield Result('full split over a one-view CLIP epoch', full / one)
    yield Result('split with top_fraction 0.3 over a two-view CLIP epoch', top / two)
    yield Result('split with top_fraction 0.3 over a one-view CLIP epoch', top / one)
    yield Result('split with score: Running over a one-view CLIP epoch', running / one, target=0.02)


def quality(folder: str) -> Iterator[Result]:
    """Trains SafeCLIP on poisoned pairs with the running average, and compares it with a sweep at the end."""
    attacks = {
        'badnet': BadNet('striped star', count=60, size=8, pattern='checker', block=2, margin=4),
        'tdpa': TargetedPoison(targets=10, copies=10),
    }
    data = toy_pairs(folder, rows=ROWS, heldout_rows=480, attacks=attacks)
    module = SafeCLIP(architecture=MODEL, lr=2e-3, slow_lr=3e-4, unimodal_epochs=3, channels_last=True)
    score, clean = Running(), Sweep()
    trainer(EPOCHS, SafeRiskyRepartition(score=score), clean).fit(module, datamodule=data)
    assert score.average is not None
    running, poison = score.average.numpy(), data.manifest.rows()
    correlation = float(spearmanr(running, clean.score, nan_policy='omit').statistic)
    yield Result('rank correlation of the running score with a sweep', correlation, '')
    for name, values in (('running score', running), ('sweep', clean.score)):
        safe = top_rows(values.astype(np.float64), round(SHARE * len(values)))
        leak = float(np.isin(poison, safe).mean())
        yield Result(f'share of the poisons among the {SHARE:.0%} most similar pairs, by the {name}', leak, '')
