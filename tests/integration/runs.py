"""A whole SafeCLIP run of a second, which can be made to die at any point, and all that is left of it."""

from __future__ import annotations

import io
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple
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
from lightning_modules.safeclip import SafeCLIP
from tests.helpers.tiny import TinyPairs, tiny_architecture, trainer

PHASES = ['unimodal', 'unimodal', 'slow', 'mixed', 'mixed']  # of the epochs of a run
STEPS, BATCH = 4, 8
HELDOUT = 13  # images of the clean set, not a multiple of two ranks
POISONS = 4


# --- how a run ends before its time ---------------------------------------------------------------------------------


class Died(Exception):
    """Stands for ``kill -9`` where the process of the tests has to go on."""


def raise_died() -> None:
    raise Died


def kill_self() -> None:
    """Ends the process as the kernel does when memory runs out, or a scheduler when time does."""
    os.kill(os.getpid(), signal.SIGKILL)


class Place(NamedTuple):
    """A point of a run.

    Attributes:
        kind: In training, in a sweep, or half-way through writing a checkpoint.
        epoch: Epoch, counted from 0.
        number: Batch of that epoch or of its sweep; 0 for the newest checkpoint and 1 for ``last.ckpt``.
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


class Death(Callback):
    """Ends the run at a place.

    Args:
        place: Where.
        die: How; need not return.
    """

    def __init__(self, place: Place, die: Callable[[], None]) -> None:
        self.place, self.die = place, die

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        predict_step = pl_module.predict_step

        def dying(batch: Any, batch_idx: int) -> Any:  # nothing but a sweep calls it in a fit
            if self.place == ('sweep', trainer.current_epoch, batch_idx):
                self.die()
            return predict_step(batch, batch_idx)

        pl_module.predict_step = dying

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.place == ('training', trainer.current_epoch, batch_idx):
            self.die()

    @contextmanager
    def while_writing(self) -> Iterator[None]:
        """Makes ``torch.save`` write half of a checkpoint if that is the place; each epoch writes two."""
        written, save = Counter[int](), torch.save

        def dying(checkpoint: Any, file: Path) -> None:
            epoch = checkpoint['epoch']  # not counted from the beginning: the run may be a resumed one
            if self.place == ('writing', epoch, written[epoch]):
                whole = io.BytesIO()
                save(checkpoint, whole)
                file.write_bytes(whole.getvalue()[: whole.tell() // 2])
                self.die()
            save(checkpoint, file)
            written[epoch] += 1

        with patch('torch.save', dying):
            yield


class Kill(Death):
    """``kill -9`` in training, for a configuration file.

    Args:
        epoch: Epoch, counted from 0.
        batch: Batch of the epoch.
    """

    def __init__(self, epoch: int, batch: int) -> None:
        super().__init__(Place('training', epoch, batch), kill_self)


# --- what is watched ------------------------------------------------------------------------------------------------


class Metrics(Callback):
    """What was measured in every epoch; kept in checkpoints, so whole after a resume."""

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
    """Keeps the history of a run and leaves out the pictures, which take longer than all the rest."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        with patch('callbacks.figures._folder', return_value=None):
            super().on_fit_start(trainer, pl_module)

    def _draw(self, trainer: L.Trainer, pl_module: L.LightningModule, epochs: int) -> None:
        pass


class Epoch(NamedTuple):
    """What one epoch did.

    Attributes:
        number: Counted from 0.
        rows: Rows of each training batch.
        safe: How many of them were trained as safe pairs.
        images: Sum of the pixels of each image that was evaluated and is no padding, for each set.
        partition: Sides at the end of the epoch, after the split for the next.
    """

    number: int
    rows: list[list[int]]
    safe: list[int]
    images: dict[int, list[float]]
    partition: list[Tensor]


class Trace(Callback):
    """Writes down what every epoch trains and evaluates on, in this process."""

    def __init__(self) -> None:
        self.epochs: list[Epoch] = []
        self.validations: list[int] = []  # epochs, once for each time that evaluation began

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


class Seen(Callback):
    """Batches as the model gets them: of every sweep, and the first of every epoch."""

    def __init__(self) -> None:
        self.swept: list[tuple[int, PairBatch]] = []  # with the epoch at whose end
        self.trained: list[PairBatch] = []

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        predict_step = pl_module.predict_step

        def seen(batch: PairBatch, batch_idx: int) -> Any:
            self.swept.append((trainer.current_epoch, batch))
            return predict_step(batch, batch_idx)

        pl_module.predict_step = seen

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: PairBatch, batch_idx: int
    ) -> None:
        if not batch_idx:
            self.trained.append(batch)


# --- a run ----------------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """What a run is made of, after it."""

    module: SafeCLIP
    data: TinyPairs
    trace: Trace
    metrics: Metrics
    trainer: L.Trainer


def pairs(folder: Path, workers: int = 0, kind: type[TinyPairs] = TinyPairs) -> TinyPairs:
    """Poisoned pairs whose pictures and captions are augmented at random: 34 rows, four batches of eight."""
    return kind(
        rows=30,
        heldout_rows=HELDOUT,
        attacks={'badnet': BadNet('cat', size=2, count=POISONS, captions='templates')},
        image_views=SimCLRViews(),
        caption_views=EDA(alpha=0.3, operations=('swap', 'deletion')),
        batch_size=BATCH,
        cache_dir=str(folder / 'cache'),
        num_workers=workers,
    )


def model(folder: Path, seed: int = 0, kind: type[SafeCLIP] = SafeCLIP) -> SafeCLIP:
    """Random weights, a pool that turns over every two batches, and a rate at which weights move visibly."""
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
    """A split whose size is known: three tenths, then a tenth more."""
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
    """Trains all five epochs, with checkpoints as ``experiments/defaults.yaml`` has them.

    Args:
        folder: Where checkpoints and caches go.
        place: Where to die, if at all.
        die: How.
        resume: Checkpoint to go on from; the model then starts from other weights, which must not matter.
        module: Another module than :func:`model`.
        data: Other data than :func:`pairs`.
        split: Another split than :func:`repartition`.
        watch: Further callbacks.
        settings: Further arguments of the trainer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    module, data = module or model(folder, seed=0 if resume is None else 1), data or pairs(folder)
    death, trace, metrics = Death(place or Place('training', -1, 0), die), Trace(), Metrics()
    save = ModelCheckpoint(
        folder / 'checkpoints', save_on_train_epoch_end=True, save_top_k=1, save_last=True, enable_version_counter=False
    )
    observers: list[Callback] = [ScoreLedger(), Curves(), metrics, trace, *watch]
    fitting = trainer(
        max_epochs=len(PHASES),
        callbacks=[death, AttackSuccessRate(), ZeroShot(), split or repartition(), *observers, save],
        enable_checkpointing=True,
        plugins=[AtomicCheckpointIO()],
        default_root_dir=folder,
        **settings,
    )
    with death.while_writing():
        fitting.fit(module, data, ckpt_path=resume and str(resume))
    return Run(module, data, trace, metrics, fitting)


def last(folder: Path) -> Path:
    """The checkpoint that a user resumes a run from."""
    return folder / 'checkpoints' / 'last.ckpt'


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run leaves in ``last.ckpt``: weights, pools, optimizer, schedule, split, metrics, progress.

    Without where its checkpoints lie, which is not the same for two runs.
    """
    checkpoint = torch.load(last(folder), weights_only=True)
    kept = {name: state for name, state in checkpoint['callbacks'].items() if 'ModelCheckpoint' not in name}
    return {**checkpoint, 'callbacks': kept}


def differences(one: Any, other: Any, at: str = '') -> list[str]:
    """Where two checkpoints are not the same to the last bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape and torch.equal(bits(one), bits(other))
        return [] if same else [at]
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if one.keys() != other.keys():
            return [f'{at}: {set(one) ^ set(other)}']
        return [place for key in one for place in differences(one[key], other[key], f'{at}/{key}')]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            return [f'{at}: {len(one)} and {len(other)} entries']
        return [p for i, (a, b) in enumerate(zip(one, other, strict=True)) for p in differences(a, b, f'{at}/{i}')]
    return [] if one == other else [f'{at}: {one!r} and {other!r}']


def bits(tensor: Tensor) -> Tensor:
    """The numbers as integers, so that NaN equals itself and 0 does not equal -0."""
    return tensor.contiguous().flatten().view(torch.uint8)
