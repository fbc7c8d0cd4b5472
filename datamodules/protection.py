"""What protects the training pairs of a run from being learned: which noise and which trigger belong to which row."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import lightning as L
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from datamodules.pictures.augment import SimCLRViews
from datamodules.pictures.noise_store import NoiseStore, StoreSettings, check_unused
from datamodules.rows.draws import bits, permutation
from datamodules.rows.partition import DROPPED, Draw
from datamodules.rows.rounds import plan_round, share
from datamodules.text.allowed_tokens import allowed_tokens
from datamodules.text.token_cache import identify_tokenizer
from datamodules.text.tokenizer import WordTokenizer
from datamodules.text.trigger_places import Place as Place
from datamodules.text.trigger_places import cut_by_trigger, trigger_places
from datamodules.usage_error import UsageError

if TYPE_CHECKING:
    from datamodules.pairs import PairsDataModule

Granularity = Literal['image', 'row', 'class']
Start = Literal['the', 'a', 'random']
NoiseStart = Literal['zero', 'random']
Array = npt.NDArray[Any]

_CROPS_AND_FLIPS = SimCLRViews(crop_scale=(0.5, 1.0), jitter=0.0, gray=0.0, blur=0.0)
_FIRST_TRIGGERS, _SHUFFLE = 1, 2  # what random numbers are drawn for

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProtectionSettings:
    """Which noise and triggers to make; the arguments of :class:`lightning_modules.unlearnable.MEM`."""

    method: str
    eps: int
    granularity: Granularity
    noise_start: NoiseStart
    trigger_length: int
    trigger_place: Place
    trigger_start: Start
    seed: int


class Protection:
    """Units of noise, places of triggers, batches of rounds, and the store of what is found.

    Args:
        data: The pairs, set up.
        settings: Which noise and triggers to make.

    Attributes:
        unit: The noise and trigger that each row shares, int64 (N,): rows of equal pictures with ``image``, of equal
            classes with ``class``; -1 for rows that are not trained on.
        place: Position of each row's trigger among its tokens, int32 (N,).
        allowed: Tokens that a trigger may consist of, ascending, int64 (A,).
        store: What was found so far; see :meth:`open`.

    Raises:
        UsageError: If the model has a tokenizer of its own, or a trigger does not fit into the context.
    """

    store: NoiseStore

    def __init__(self, data: PairsDataModule, settings: ProtectionSettings) -> None:
        if not isinstance(data.tokenizer, WordTokenizer) and settings.trigger_length:
            raise UsageError(
                "triggers are made of CLIP's tokens, and this model.architecture has a tokenizer of its own: choose "
                'another, or set model.trigger_length=0.'
            )
        self.data, self.settings, self.tokens = data, settings, data.tokens
        self.unit = self._units()
        used, length = self.unit >= 0, settings.trigger_length
        self.place = trigger_places(data.tokens, settings.trigger_place, length, settings.seed, used)
        self.allowed = allowed_tokens() if length else np.empty(0, np.int64)
        if cut := cut_by_trigger(data.tokens[used], length):
            log.warning(
                '%d of %d captions lose their last words to the trigger, which leaves them no room in the %d tokens '
                'that the model reads', cut, used.sum(), data.tokens.shape[1],
            )  # fmt: skip

    def _units(self) -> Array:
        rows = np.flatnonzero(self.data.partition.side.numpy() != DROPPED)
        unit = np.full(len(self.data.partition), -1, np.int64)
        if self.settings.granularity == 'row':
            unit[rows] = np.arange(len(rows))
        else:
            shared = self.data.row_labels() if self.settings.granularity == 'class' else self.data.picture_hashes()
            _, first, unit[rows] = np.unique(shared[rows], return_index=True, return_inverse=True)
            unit[rows] = first.argsort().argsort()[unit[rows]]  # numbered in the order of their first rows
        return unit

    # --- rounds -----------------------------------------------------------------------------------------------------

    def plan_round(self, number: int, model_steps: int) -> list[Array]:
        """Rows of each batch of a round over all processes, see :func:`datamodules.rows.rounds.plan_round`."""
        return plan_round(
            self.unit, self.data.batch_size, model_steps, in_passes=self.settings.granularity != 'class',
            seed=self.settings.seed, number=number,
        )  # fmt: skip

    def draws(self, number: int, model_steps: int, rank: int, world: int) -> list[Draw]:
        """The part of these batches that a process takes."""
        return share(self.plan_round(number, model_steps), rank, world)

    def shuffle(self, count: int, *key: int) -> Tensor:
        """Shuffles the pairs of a batch, int64 (count,), the same on all processes; the key tells shuffles apart."""
        return torch.from_numpy(permutation(count, self.settings.seed, _SHUFFLE, *key))

    def crop_and_flip(self, levels: Tensor, row: Tensor, epoch: int, view: int) -> Tensor:
        """A random crop of at least half of each picture, flipped at random, in [0, 1], float (B, 3, H, W).

        Args:
            levels: Pictures in levels of 255, float (B, 3, H, W); the view has a gradient for them.
            row: Their rows, int64 (B,), which determine the crop with the seed and the following.
            epoch: Number of the step.
            view: Number of the view.
        """
        return _CROPS_AND_FLIPS(levels, row, levels.shape[-1], seed=self.settings.seed, epoch=epoch, view=view)

    # --- store ------------------------------------------------------------------------------------------------------

    @staticmethod
    def check_unused(folder: Path) -> None:
        """Refuses a folder for a new store that holds something."""
        check_unused(folder)

    def start(self, folder: Path) -> None:
        """Makes the store in a new folder; one process does."""
        NoiseStore.create(folder, self._store_settings(), self.unit, self.place, self._first_triggers())

    def open(self, folder: Path) -> None:
        """Opens the store, which :meth:`start` or an earlier run has made.

        Raises:
            UsageError: If there is none, it was made for something else, or it holds tokens that are no words.
        """
        self.store = NoiseStore.open(folder)
        self.store.check_settings(self._store_settings())
        self.store.check_rows(self.unit, self.place)
        if not np.isin(self.store.trigger(np.flatnonzero(self.unit >= 0)), self.allowed).all():
            raise UsageError(f'{folder} holds triggers that are no words: make it anew with clipward fit.')

    def _store_settings(self) -> StoreSettings:
        settings, data = self.settings, self.data
        return StoreSettings(
            settings.method, data.partition.fingerprint, data.stored_size, settings.eps, settings.granularity,
            settings.trigger_length, settings.trigger_place, identify_tokenizer(data.tokenizer), settings.seed,
            self._digest_pictures(), settings.trigger_start, settings.noise_start,
        )  # fmt: skip

    def _digest_pictures(self) -> str:
        """Tells these pictures from others under the same names, such as a photo that was edited since."""
        return hashlib.sha256(self.data.picture_hashes().astype('<i8').tobytes()).hexdigest()[:16]

    def _first_triggers(self) -> Array:
        shape = int(self.unit.max(initial=-1)) + 1, self.settings.trigger_length
        if self.settings.trigger_start == 'random':
            drawn = bits(shape[0] * shape[1], self.settings.seed, _FIRST_TRIGGERS) % np.uint64(
                max(1, len(self.allowed))
            )
            return self.allowed[drawn.astype(np.int64).reshape(shape)]
        word = WordTokenizer(3)(self.settings.trigger_start)[1]
        return np.full(shape, word)


def protection_of(trainer: L.Trainer, settings: ProtectionSettings) -> Protection:
    """Noise and triggers for the pairs of a run, which a module searches.

    Raises:
        UsageError: If the data is a stream, or :func:`protect_pairs` refuses it.
    """
    data = cast(Any, trainer).datamodule  # set by Lightning, but missing from its type
    if not hasattr(data, 'partition'):
        raise UsageError(
            'noise needs a row number for each pair, which a stream does not have: use a datamodule with a table of '
            'pairs, such as a subclass of PairsDataModule.'
        )
    return protect_pairs(data, settings)


def protect_pairs(data: PairsDataModule, settings: ProtectionSettings) -> Protection:
    """Noise and triggers for some pairs, set up.

    Raises:
        UsageError: If the data has canaries, does not store its pictures, averages them, or stores them at another size
            than the model takes.
    """
    if data.canary_count:
        raise UsageError('data.canaries would plant pairs that are not yours to publish: leave it empty.')
    if data.cache == 'none':
        raise UsageError(
            'data.cache=none does not tell which pictures can be read, and those that cannot would be published as '
            'black ones: set data.cache=memmap.'
        )
    if data.average_copies is not None:
        raise UsageError('data.average_copies would publish mean pictures in the place of yours: leave it null.')
    if data.stored_size != data.image_size:
        raise UsageError(
            f'data.cache_size={data.stored_size} is not the {data.image_size} pixels that the model takes, for which '
            f'noise is made: leave it null.'
        )
    return Protection(data, settings)
