"""A complete SafeCLIP run that takes a second, can be killed at any point, and records what it does."""

from __future__ import annotations

import io
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple
from unittest.mock import patch

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from callbacks.attack_success import AttackSuccessRate
from callbacks.figures import Figures
from callbacks.ledger import ScoreLedger
from callbacks.repartition import SafeRiskyRepartition
from callbacks.zero_shot import ZeroShot
from datamodules.attacks.badnet import BadNet
from datamodules.evaluation.sets import EvalBatch
from datamodules.pictures.augment import SimCLRViews
from datamodules.pictures.batches import PairBatch
from datamodules.text.eda import EDA
from experiments.checkpoint_io import AtomicCheckpointIO
from experiments.run_log import HISTORY
from lightning_modules.safeclip import SafeCLIP
from tests.helpers.tiny import TinyPairs, tiny_architecture, trainer

PHASES = ['unimodal', 'unimodal', 'slow', 'mixed', 'mixed']  # of the epochs of a run
STEPS, BATCH = 4, 8
HELDOUT = 13  # images of the clean set, not a multiple of two ranks
POISONS = 4


# --- killing a run --------------------------------------------------------------------------------------------------


class Died(Exception):
    """Replaces ``kill -9`` in the process that runs the tests."""


def raise_died() -> None:
    raise Died


def kill_self() -> None:
    """Kills this process, as the kernel does when memory runs out or a scheduler when time is up."""
    os.kill(os.getpid(), signal.SIGKILL)


class Place(NamedTuple):
    """A point of a run.

    Attributes:
        kind: In training, in a sweep, or halfway through writing a checkpoint.
        epoch: Epoch, counted from 0.
        number: Batch of that epoch or of its sweep. When writing: 0 for the newest checkpoint, 1 for ``last.ckpt``.
    """

    kind: Literal['training', 'sweep', 'writing']
    epoch: int
    number: int


PLACES = {
    'unimodal': Place('training', 1, 2),
    'slow': Place('training', 2, 1),
    'first sweep': Place('sweep', 2, 1),
    'mixed': Place('training', 3, 3),
    'sweep': Place('sweep', 3, 2),
    'writing': Place('writing', 3, 0),
    'writing last': Place('writing', 3, 1),
}


class Killer(Callback):
    """Ends the run at a given place.

    Args:
        place: Where to end it.
        die: Ends it; need not return.
    """

    def __init__(self, place: Place, die: Callable[[], None]) -> None:
        self.place, self.die = place, die

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        predict_step = pl_module.predict_step

        def die_or_predict(batch: Any, batch_idx: int) -> Any:  # in a fit, only a sweep calls it
            if self.place == ('sweep', trainer.current_epoch, batch_idx):
                self.die()
            return predict_step(batch, batch_idx)

        pl_module.predict_step = die_or_predict

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.place == ('training', trainer.current_epoch, batch_idx):
            self.die()

    @contextmanager
    def while_writing(self) -> Iterator[None]:
        """Makes ``torch.save`` die halfway through the checkpoint at ``place``. Each epoch writes two checkpoints."""
        written, save = Counter[int](), torch.save

        def die_or_save(checkpoint: Any, file: BinaryIO) -> None:
            epoch = checkpoint['epoch']  # not a count of calls, because the run may be a resumed one
            if self.place == ('writing', epoch, written[epoch]):
                complete = io.BytesIO()
                save(checkpoint, complete)
                file.write(complete.getvalue()[: complete.tell() // 2])
                file.flush()
                self.die()
            save(checkpoint, file)
            written[epoch] += 1

        with patch('torch.save', die_or_save):
            yield


class Kill(Killer):
    """Kills the process in training; for config files.

    Args:
        epoch: Epoch, counted from 0.
        batch: Batch of the epoch.
    """

    def __init__(self, epoch: int, batch: int) -> None:
        super().__init__(Place('training', epoch, batch), kill_self)


# --- recording a run ------------------------------------------------------------------------------------------------


class Metrics(Callback):
    """Records the metrics of every epoch, in checkpoints too, so that they are complete after a resume."""

    MEASURED = ('asr/', 'zero_shot/', 'partition/')

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        metrics = trainer.callback_metrics.items()
        self.epochs.append({name: float(value) for name, value in metrics if name.startswith(self.MEASURED)})

    def state_dict(self) -> dict[str, Any]:
        return {'epochs': self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epochs = state_dict['epochs']


class Curves(Figures):
    """Records the history of a run without drawing figures, which would take most of the time."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        with patch('callbacks.figures._folder', return_value=None):
            super().on_fit_start(trainer, pl_module)

    def _draw(self, trainer: L.Trainer, pl_module: L.LightningModule, epochs: int) -> None:
        pass


class Epoch(NamedTuple):
    """Record of one epoch.

    Attributes:
        number: Number of the epoch, counted from 0.
        rows: Rows of each training batch.
        safe: Number of pairs trained across modalities in each batch.
        images: For each evaluation set, the sum of the pixels of each image, without padding.
        partition: Sides at the end of the epoch, after the split.
    """

    number: int
    rows: list[list[int]]
    safe: list[int]
    images: dict[int, list[float]]
    partition: list[Tensor]


class Trace(Callback):
    """Records what every epoch trains and evaluates on, in this process."""

    def __init__(self) -> None:
        self.epochs: list[Epoch] = []
        self.validations: list[int] = []  # epoch of each evaluation

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.epochs.append(Epoch(trainer.current_epoch, [], [], {}, []))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: PairBatch, batch_idx: int
    ) -> None:
        self.epochs[-1].rows.append(batch.row.tolist())
        self.epochs[-1].safe.append(batch.cross_modal)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validations.append(trainer.current_epoch)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: EvalBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        sums = batch.image[batch.valid].double().sum((1, 2, 3)).tolist()
        self.epochs[-1].images.setdefault(dataloader_idx, []).extend(sums)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.epochs[-1].partition.append(trainer.datamodule.partition.side.clone())


class SeenBatches(Callback):
    """Records batches as the model receives them: all of every sweep, and the first of every epoch."""

    def __init__(self) -> None:
        self.swept: list[tuple[int, PairBatch]] = []  # with the epoch of the sweep
        self.trained: list[PairBatch] = []

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        predict_step = pl_module.predict_step

        def record_and_predict(batch: PairBatch, batch_idx: int) -> Any:
            self.swept.append((trainer.current_epoch, batch))
            return predict_step(batch, batch_idx)

        pl_module.predict_step = record_and_predict

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: PairBatch, batch_idx: int
    ) -> None:
        if not batch_idx:
            self.trained.append(batch)


# --- a run ----------------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """The parts of a run after its end."""

    module: SafeCLIP
    data: TinyPairs
    trace: Trace
    metrics: Metrics
    trainer: L.Trainer


def pairs(folder: Path, workers: int = 0, kind: type[TinyPairs] = TinyPairs, **more: Any) -> TinyPairs:
    """Poisoned pairs with random augmentation: 34 rows, four batches of eight."""
    return kind(
        rows=30,
        heldout_rows=HELDOUT,
        attacks={'badnet': BadNet('cat', size=2, count=POISONS, captions='templates')},
        image_views=SimCLRViews(),
        caption_views=EDA(alpha=0.3, operations=('swap', 'deletion')),
        batch_size=BATCH,
        cache_dir=str(folder / 'cache'),
        num_workers=workers,
        **more,
    )


def model(folder: Path, seed: int = 0, kind: type[SafeCLIP] = SafeCLIP) -> SafeCLIP:
    """A model with random weights, a pool of two batches, and a learning rate that visibly changes the weights."""
    torch.manual_seed(seed)
    return kind(
        architecture=tiny_architecture(folder, 'integration'),
        unimodal_epochs=2,
        slow_epochs=1,
        pool_size=2 * BATCH,
        warmup_steps=2,
        lr=1e-2,
    )


def repartition(**kwargs: Any) -> SafeRiskyRepartition:
    """A split of known size: 30 % safe at first, then 10 % more."""
    return SafeRiskyRepartition(**{'growth': 0.1, 'min_fraction': 0.3, 'cap': 0.9, **kwargs})


def run(
    folder: Path,
    place: Place | None = None,
    die: Callable[[], None] = raise_died,
    resume: Path | None = None,
    module: SafeCLIP | None = None,
    data: TinyPairs | None = None,
    split: SafeRiskyRepartition | None = None,
    watch: Sequence[Callback] = (),
    **settings: Any,
) -> Run:
    """Trains all five epochs, with checkpoints as in ``experiments/defaults.yaml``.

    Args:
        folder: Folder of checkpoints and caches.
        place: Where to die; ``None`` to finish.
        die: Ends the run.
        resume: Checkpoint to resume from. The model then starts from other weights, which must not matter.
        module: Model; that of :func:`model` by default.
        data: Data; that of :func:`pairs` by default.
        split: Split; that of :func:`repartition` by default.
        watch: Further callbacks.
        settings: Further arguments of the trainer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    module, data = module or model(folder, seed=0 if resume is None else 1), data or pairs(folder)
    killer, trace, metrics = Killer(place or Place('training', -1, 0), die), Trace(), Metrics()
    save = ModelCheckpoint(
        folder / 'checkpoints', save_on_train_epoch_end=True, save_top_k=1, save_last=True, enable_version_counter=False
    )
    observers: list[Callback] = [ScoreLedger(), Curves(), metrics, trace, *watch]
    fitting = trainer(
        max_epochs=len(PHASES),
        callbacks=[killer, AttackSuccessRate(), ZeroShot(), split or repartition(), *observers, save],
        enable_checkpointing=True,
        plugins=[AtomicCheckpointIO()],
        default_root_dir=folder,
        **settings,
    )
    with killer.while_writing():
        fitting.fit(module, data, ckpt_path=resume and str(resume))
    return Run(module, data, trace, metrics, fitting)


def last(folder: Path) -> Path:
    """Path of the checkpoint from which a user resumes a run."""
    return folder / 'checkpoints' / 'last.ckpt'


def load_outcome(folder: Path) -> dict[str, Any]:
    """Loads what a run leaves in ``last.ckpt``: weights, pools, optimizer, schedule, split, metrics, progress.

    Leaves out the paths of its checkpoints and the times in its metrics, which differ between runs.
    """
    checkpoint = torch.load(last(folder), weights_only=True)
    checkpoint.pop(HISTORY, None)
    kept = {name: state for name, state in checkpoint['callbacks'].items() if 'ModelCheckpoint' not in name}
    return {**checkpoint, 'callbacks': kept}


def find_differences(one: Any, other: Any, at: str = '') -> list[str]:
    """Lists the entries in which two checkpoints differ by at least one bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape and torch.equal(bits(one), bits(other))
        return [] if same else [at]
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if one.keys() != other.keys():
            return [f'{at}: {set(one) ^ set(other)}']
        return [path for key in one for path in find_differences(one[key], other[key], f'{at}/{key}')]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            return [f'{at}: {len(one)} and {len(other)} entries']
        return [p for i, (a, b) in enumerate(zip(one, other, strict=True)) for p in find_differences(a, b, f'{at}/{i}')]
    is_same = one == other or (one != one and other != other)  # NaN, for what is not known
    return [] if is_same else [f'{at}: {one!r} and {other!r}']


def bits(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, so that NaN equals itself and 0 does not equal -0."""
    return tensor.contiguous().flatten().view(torch.uint8)
