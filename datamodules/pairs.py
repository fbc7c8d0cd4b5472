"""The way of a pair: table, attacks, cache, sampler, batch, views."""

from __future__ import annotations

import logging
import math
import os
from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from datamodules.attacks.base import AttackPool, Origin, Pixels, Poisoning, picture, poisoned, taken_apart
from datamodules.evaluation.labeled import labeled_folder
from datamodules.evaluation.sets import EvalBatch, EvaluationSet, evaluation_loader
from datamodules.pictures.augment import CleanView, ImageViews, normalize
from datamodules.pictures.batches import CLEAN, PairBatch, PairDataset, PairImages
from datamodules.pictures.cache import (
    Decoded,
    Pictures,
    decoded_images,
    mapped_table,
    pictures_name,
    read,
    stored_array,
)
from datamodules.pictures.copies import picture_hashes
from datamodules.rows.partition import DROPPED, RISKY, SAFE, Draw, Order, Partition, PartitionSampler
from datamodules.rows.table import UNKNOWN, PairTable
from datamodules.text.eda import EDA
from datamodules.text.prompts import imagenet_classes, imagenet_templates, prompts
from datamodules.text.tokenizer import WordTokenizer
from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)


class PairsDataModule(L.LightningDataModule):
    """Image-caption pairs, poisoned as asked, split as a defense decides.

    A data set is a subclass with :meth:`load_table` and, where images outside the training set are at hand,
    :meth:`load_heldout`.

    Args:
        batch_size: Pairs in a batch over all processes.
        image_size: Side of a view in pixels; the model's if ``None``.
        cache_size: Side of the stored pictures in pixels; ``image_size`` if ``None``. Larger ones give crops detail.
        context_length: Tokens of a caption; the model's if ``None``.
        attacks: Attacks by name, applied in order. An overlay that names any replaces them all; ``{}`` for none.
        poison: Train on the poisons. ``false`` leaves them out and still measures the attacks: the unpoisoned twin.
        heldout_name: Name of the held-out set in metrics.
        labeled: Further sets for zero-shot accuracy by name: folders of classes, ``<class>/*.jpg``.
        class_names: Classes of the zero-shot classifier where the data has none of its own: names, or ``imagenet``.
        templates: Prompts with one ``{}`` each; the 80 of CLIP's authors if ``None``.
        image_views: Augmentation of images in training; ``None`` takes them as they are.
        caption_views: Augmentation of captions in training; ``None`` takes them as they are.
        order: How safe and risky batches follow each other, see :class:`PartitionSampler`.
        safe_weight: Draws of a safe pair for one draw of a risky one.
        cache: ``memmap``: decode every picture once, into ``cache_dir``. ``none``: decode at every access.
        cache_dir: Folder of the caches.
        num_workers: Processes that load, at most as many as there are cores.
        seed: Seed of batches and views; that of an attack is its own.
        eval_batch_size: Pairs or images in a batch of one process where nothing is trained.
    """

    def __init__(
        self,
        batch_size: int = 512,
        image_size: int | None = None,
        cache_size: int | None = None,
        context_length: int | None = None,
        attacks: dict[str, Poisoning | None] | None = None,
        poison: bool = True,
        heldout_name: str = 'heldout',
        labeled: dict[str, str] | None = None,
        class_names: list[str] | Literal['imagenet'] = 'imagenet',
        templates: list[str] | None = None,
        image_views: ImageViews | None = None,
        caption_views: EDA | None = None,
        order: Order = 'interleaved',
        safe_weight: float = 1.0,
        cache: Literal['memmap', 'none'] = 'memmap',
        cache_dir: str = 'cache',
        num_workers: int = 0,
        seed: int = 0,
        eval_batch_size: int = 512,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UsageError(f'data.batch_size must be at least 1, got {batch_size}.')
        if not 0 < safe_weight < math.inf:
            raise UsageError(f'data.safe_weight must be positive and finite, got {safe_weight}.')
        self.batch_size, self.image_size, self.cache_size = batch_size, image_size, cache_size
        self.context_length, self.heldout_name, self.class_names = context_length, heldout_name, class_names
        self.attacks = taken_apart(attacks or {})
        self.poison, self.labeled = poison, labeled or {}
        self.templates = tuple(imagenet_templates() if templates is None else templates)
        self.image_views, self.caption_views = image_views or CleanView(), caption_views
        self.order, self.safe_weight = order, safe_weight
        self.cache, self.cache_dir = cache, Path(cache_dir)
        self.num_workers = min(num_workers, os.cpu_count() or 1)
        self.seed, self.eval_batch_size = seed, eval_batch_size

    # --- what a data set says -----------------------------------------------------------------------------------

    @abstractmethod
    def load_table(self) -> PairTable:
        """The training pairs in an order that is the same on every machine."""

    def load_heldout(self) -> PairTable | None:
        """Pairs outside the training set: attacks take images from them, metrics are measured on them."""
        return None

    # --- what follows from it -----------------------------------------------------------------------------------

    @cached_property
    def source(self) -> PairTable:
        """The clean training pairs."""
        return mapped_table(self.load_table(), self.cache_dir)

    @cached_property
    def heldout(self) -> PairTable | None:
        """The held-out pairs."""
        return self.load_heldout()

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Class names that a zero-shot classifier may answer and an attack may aim at."""
        for table in (self.heldout, self.source):
            if table is not None and table.classes:
                return table.classes
        return imagenet_classes() if self.class_names == 'imagenet' else tuple(self.class_names)

    def prepare_data(self) -> None:
        """Decodes what the cache does not hold yet, on one process."""
        self._take_sizes_from_model()
        self._pictures()

    def setup(self, stage: str) -> None:
        """Poisons the table and lays out batches; the same on every rank."""
        self._take_sizes_from_model()
        assert self.context_length is not None
        pictures, unreadable = self._pictures()
        pool = self._pool(unreadable)
        broken = np.fromiter(unreadable['train'], np.int64)
        self.table, self.manifest = poisoned(self.attacks, pool)
        self.images = PairImages(pictures['train'], *self._triggered(pictures), len(self.table))
        self.tokenizer = WordTokenizer(self.context_length)
        self.tokens = self._tokens()
        self._warn_of_cut_captions()
        self.partition = Partition(len(self.table), self.table.fingerprint)
        poisons = self.manifest.rows()
        self.partition.side[np.setdiff1d(broken, poisons) if self.poison else np.union1d(broken, poisons)] = DROPPED
        self.evaluation_sets = self._evaluation_sets(pictures, pool)
        self._check_batch_size(stage)

    def clean_pool(self) -> tuple[AttackPool, Pixels]:
        """What attacks choose from, before any of them has, and its stored pictures without triggers."""
        pictures, unreadable = self._pictures()
        return self._pool(unreadable), lambda origin, rows: read(pictures[origin], rows)

    @property
    def stored_size(self) -> int:
        """Side of the pictures as they are stored, in pixels."""
        size = self.cache_size or self.image_size
        assert size is not None
        return size

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch, whole ones, the same number in every epoch."""
        return int((self.partition.side != DROPPED).sum()) // self.batch_size

    def memory_plan(self) -> dict[str, int]:
        """Bytes of what a run keeps, by name: pictures and tokens on disk, bookkeeping in memory."""
        picture = 3 * self.stored_size**2
        rows = len(self.table)
        kept = {'split and scores': rows * (1 + 4 + 4), 'tokens on disk': self.tokens.nbytes}
        if self.cache == 'memmap':
            kept['pictures on disk'] = len(self.source) * picture
        kept['poisons on disk'] = len(self.manifest) * picture
        kept['evaluation pictures'] = sum(s.images.nbytes for s in self.evaluation_sets)
        return kept

    def picture_hashes(self) -> np.ndarray:
        """A number for each row's stored picture, int64 (N,), the same for the very same pixels; computed once."""
        path = self.cache_dir / f'{self.table.fingerprint}-{self.manifest.digest}-hashes-{self.stored_size}.npy'

        def fill(hashes: np.ndarray) -> None:
            hashes[:] = picture_hashes(self.images, len(hashes))

        return stored_array(path, (len(self.table),), np.int64, fill)

    # --- loaders ------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader[PairBatch]:
        # Not trainer.current_epoch, which is one too low while a run is being resumed.
        trainer: Any = self.trainer
        epoch = trainer.fit_loop.epoch_progress.current.processed
        views = trainer.lightning_module.sides(epoch)
        safe, risky = self.rows_of_sides(views)
        sampler = PartitionSampler(
            safe, risky, self.steps_per_epoch, self.batch_size, seed=self.seed, epoch=epoch, rank=self._rank,
            world=self._world, order=self.order, safe_weight=self.safe_weight,
        )  # fmt: skip
        return self._loader(sampler, views, epoch)

    def rows_of_sides(self, views: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
        """Safe and risky rows of an epoch. One side alone takes every pair; a side without views is left out.

        Raises:
            UsageError: If nothing is left to train on.
        """
        if len(views) == 1:
            rows = torch.nonzero(self.partition.side != DROPPED).flatten().numpy()
            safe, risky = (rows, rows[:0]) if 'cross_modal' in views else (rows[:0], rows)
        else:
            safe = self.partition.rows(SAFE).numpy()
            risky = self.partition.rows(RISKY).numpy()[: None if views['within_modal'] else 0]
        if not len(safe) and not len(risky):
            raise UsageError('no pair is left to train on: lower callbacks.repartition.threshold or set min_fraction.')
        return safe, risky

    def sweep_dataloader(
        self, epoch: int = CLEAN, rows: np.ndarray | None = None, views: int = 1
    ) -> DataLoader[PairBatch]:
        """Pairs once over all ranks, in order: all that are not dropped, or some rows, ascending.

        Args:
            epoch: ``CLEAN`` for pairs as they are; an epoch for its augmented views.
            rows: Which, int64; all if ``None``.
            views: How many of them.
        """
        rows = torch.nonzero(self.partition.side != DROPPED).flatten().numpy() if rows is None else rows
        rows = rows[self._rank :: self._world]
        parts = np.array_split(rows, -(-len(rows) // self.eval_batch_size)) if len(rows) else []
        return self._loader([Draw(part, len(part)) for part in parts], {'cross_modal': views}, epoch)

    def predict_dataloader(self) -> DataLoader[PairBatch]:
        return self.sweep_dataloader()

    def val_dataloader(self) -> list[DataLoader[EvalBatch]]:
        return [evaluation_loader(s, self.eval_batch_size, self._rank, self._world) for s in self.evaluation_sets]

    def test_dataloader(self) -> list[DataLoader[EvalBatch]]:
        return self.val_dataloader()

    def prompt_tokens(self) -> list[torch.Tensor]:
        """Tokens of the prompts of each evaluation set, int64 (C, P, T)."""
        return [self._prompts(s.classes, s.templates) for s in self.evaluation_sets]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Makes the views, on the device."""
        if isinstance(batch, EvalBatch):
            return batch._replace(image=normalize(self._view(CleanView(), batch.image, batch.label, CLEAN, 0)))
        maker = CleanView() if batch.epoch == CLEAN else self.image_views
        views = [self._view(maker, batch.image, batch.row, batch.epoch, v) for v in range(len(batch.tokens))]
        return batch._replace(image=torch.stack([normalize(view) for view in views]))

    # --- resume -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {'partition': self.partition.state_dict(), 'poisons': self._trained_poisons}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        training = self.trainer is not None and self.trainer.state.fn == 'fit'
        if training:  # whoever only evaluates may do so on other data
            self.partition.load_state_dict(state_dict['partition'])
            if state_dict['poisons'] != self._trained_poisons:  # another trigger, say: the table would be the same
                raise UsageError(
                    'the checkpoint was trained on other poison than data.attacks makes: resume with the attacks and '
                    'data.poison of that run, or start from its weights with model.init_from instead of ckpt_path.'
                )

    # --- parts of the above -------------------------------------------------------------------------------------

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _world(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    @property
    def _trained_poisons(self) -> str:
        """Names the poisons that are trained on."""
        return self.manifest.digest if self.poison else 'none'

    def _take_sizes_from_model(self) -> None:
        model = self.trainer.lightning_module if self.trainer else None
        self.image_size = self.image_size or getattr(model, 'image_size', None)
        self.context_length = self.context_length or getattr(model, 'context_length', None)
        if self.image_size is None or self.context_length is None:
            raise UsageError('data.image_size and data.context_length must be given where there is no model to ask.')
        takes = getattr(model, 'context_length', self.context_length)
        if self.context_length != takes:
            raise UsageError(
                f'data.context_length={self.context_length} is not the {takes} tokens that model.architecture takes: '
                f'leave it null.'
            )

    def _check_batch_size(self, stage: str) -> None:
        if self.batch_size % self._world:
            raise UsageError(f'data.batch_size={self.batch_size} must be a multiple of the {self._world} processes.')
        if stage == 'fit' and not self.steps_per_epoch:
            pairs = int((self.partition.side != DROPPED).sum())
            raise UsageError(f'data.batch_size={self.batch_size} is larger than the {pairs} usable pairs: lower it.')

    def _loader(self, draws: Any, views: Mapping[str, int], epoch: int) -> DataLoader[PairBatch]:
        dataset = PairDataset(
            self.table, self.images, self.tokenizer, self.tokens, self.caption_views, dict(views), self.seed, epoch
        )
        # A generator of its own: how often Lightning asks for an iterator must not move the global one.
        return DataLoader(
            dataset, sampler=draws, batch_size=None, num_workers=self.num_workers, pin_memory=self._on_gpu,
            generator=torch.Generator().manual_seed(self.seed),
        )  # fmt: skip

    @property
    def _on_gpu(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == 'cuda'

    def _view(self, maker: ImageViews, image: torch.Tensor, row: torch.Tensor, epoch: int, view: int) -> torch.Tensor:
        assert self.image_size is not None
        return maker(image, row, self.image_size, seed=self.seed, epoch=epoch, view=view)

    def _pool(self, unreadable: dict[Origin, set[int]]) -> AttackPool:
        return AttackPool(self.source, self.heldout, self.classes, self.templates, taken=unreadable)

    def _pictures(self) -> tuple[dict[Origin, Pictures], dict[Origin, set[int]]]:
        """Clean pictures of both tables, and the rows whose picture cannot be read (unknown where none is decoded)."""
        pictures: dict[Origin, Pictures] = {}
        unreadable: dict[Origin, set[int]] = {'train': set(), 'heldout': set()}
        tables: dict[Origin, PairTable | None] = {'train': self.source, 'heldout': self.heldout}
        for origin, table in tables.items():
            if table is not None and (origin == 'heldout' or self.cache == 'memmap'):
                pictures[origin], readable = self._decoded(table)
                unreadable[origin] = set(np.flatnonzero(~readable).tolist())
            elif table is not None:
                pictures[origin] = Decoded(table, self.stored_size)
        return pictures, unreadable

    def _decoded(self, table: PairTable) -> tuple[np.ndarray, np.ndarray]:
        return decoded_images(table, self.stored_size, self.cache_dir, self.num_workers)

    def _triggered(self, pictures: Mapping[Origin, Pictures]) -> tuple[np.ndarray, np.ndarray]:
        """Pictures of the poisons with their triggers on, so that training sees what the manifest says, and rows."""
        rows = self.manifest.rows()

        def fill(images: np.ndarray) -> None:
            start = 0
            for name in self.manifest.attacks:
                trigger, poisons = self.attacks[name].trigger, self.manifest.poisons(name)
                own = np.stack([picture(p, lambda origin, rows: read(pictures[origin], rows)) for p in poisons])
                stop = start + len(own)
                images[start:stop] = own if trigger is None else trigger(own, self.manifest.rows(name))
                start = stop

        tables = (table for table in (self.source, self.heldout) if table is not None)  # the digest knows rows of them
        names = [pictures_name(table, self.stored_size) for table in tables]
        path = self.cache_dir / f'{"-".join(names)}-poison-{self.manifest.digest}.npy'
        return stored_array(path, (len(rows), 3, self.stored_size, self.stored_size), np.uint8, fill), rows

    def _evaluation_sets(self, pictures: Mapping[Origin, Pictures], pool: AttackPool) -> list[EvaluationSet]:
        """The held-out set if it is labeled, the further labeled sets, then one set for each attack."""
        sets = []
        if self.heldout is not None and (self.heldout.label != UNKNOWN).any():
            images = pictures['heldout']
            assert isinstance(images, np.ndarray)
            label = pool.labels('heldout', np.arange(len(self.heldout)))
            label[pool.of_taken_images('heldout')] = UNKNOWN  # unreadable, or trained on as poison
            sets.append(EvaluationSet(self.heldout_name, images, label, None, self.classes, self.templates))
        for name, folder in self.labeled.items():
            table = labeled_folder(folder, f'data.labeled.{name}')
            images, readable = self._decoded(table)
            label = table.label[readable]
            sets.append(EvaluationSet(name, images[readable], label, None, table.classes, self.templates))
        for name in self.manifest.attacks:
            attack, poisons = self.attacks[name], self.manifest.poisons(name)
            sets.append(attack.evaluation(name, poisons, pool, lambda origin, rows: read(pictures[origin], rows)))
        return sets

    def _prompts(self, classes: tuple[str, ...], templates: tuple[str, ...]) -> torch.Tensor:
        """Tokens of every class in every template, int64 (C, P, T)."""
        tokens = [[self.tokenizer(prompt) for prompt in prompts(name, templates)] for name in classes]
        return torch.from_numpy(np.array(tokens))

    def _tokens(self) -> np.ndarray:
        """Tokens of every caption as it stands, uint16 (N, T): the ids of CLIP's vocabulary fit."""
        assert self.context_length is not None

        def fill(tokens: np.ndarray) -> None:
            for start in tqdm(range(0, len(self.table), 8192), 'tokens', leave=False, disable=len(tokens) < 200_000):
                rows = np.arange(start, min(start + 8192, len(self.table)))
                tokens[rows] = [self.tokenizer(caption) for caption in self.table.captions(rows)]

        path = self.cache_dir / f'{self.table.fingerprint}-tokens-{self.context_length}.npy'
        return stored_array(path, (len(self.table), self.context_length), np.uint16, fill)

    def _warn_of_cut_captions(self) -> None:
        """Counts the captions that are longer than the model's context, whether or not their tokens were cached."""
        if self._rank:
            return
        before = self.tokenizer.truncated
        for caption in self.table.captions(np.flatnonzero(self.tokens[:, -1])):  # some of them just fit
            self.tokenizer(caption)
        if cut := self.tokenizer.truncated - before:
            log.warning(
                '%d of %d captions have more than data.context_length=%d tokens and are cut there: '
                'shorten them, or take a model.architecture with a longer context',
                cut, len(self.table), self.context_length,
            )  # fmt: skip
