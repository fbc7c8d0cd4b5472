"""Image-caption pairs as a LightningDataModule: poisons the table, filters it, loads batches and resumes."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader

from datamodules.attacks.base import AttackPool, Poisoning, flatten_attacks
from datamodules.attacks.canaries import Canary, named_canaries
from datamodules.attacks.planting import Planted, plant, secret_seed
from datamodules.attacks.poisoned_pictures import name_poisoned_pictures, render_poisoned_pictures
from datamodules.attacks.poisoned_table import poison_table
from datamodules.attacks.pool import translate_labels
from datamodules.evaluation.heldout import HeldoutSet, heldout_loader, read_published
from datamodules.evaluation.interval import check_evaluation_interval
from datamodules.evaluation.labeled import FolderOfClasses, LabeledSet, build_labeled_set
from datamodules.evaluation.sets import EvalBatch, EvaluationSet, check_set_names, evaluation_loader
from datamodules.evaluation.words import label_by_words
from datamodules.files.array_cache import stored_array
from datamodules.files.shared_columns import share_columns
from datamodules.files.workers import worker_options
from datamodules.pictures.augment import ImageViews
from datamodules.pictures.batches import CLEAN, STORED, OverlaidPictures, PairBatch, PairDataset
from datamodules.pictures.cache import map_strings
from datamodules.pictures.confined import leave_out_outside
from datamodules.pictures.copies import picture_hashes
from datamodules.pictures.shared import warn_of_shared_pictures
from datamodules.pictures.store import PictureStore
from datamodules.pictures.views import as_makers, as_rewriters, check_views, clean_view, make_views
from datamodules.rows.filters import Filter, apply_filters, dropped_by_any, mask_digest
from datamodules.rows.pair_sketch import sketch_pairs
from datamodules.rows.partition import COLUMNS, DROPPED, RISKY, SAFE, Draw, Order, Partition, PartitionSampler
from datamodules.rows.row_sets import mark_rows, row_numbers
from datamodules.rows.table import UNKNOWN, PairTable, list_strings
from datamodules.rows.trusted import find_trusted
from datamodules.text.caption_views import CaptionViews
from datamodules.text.prompts import check_class_names, check_templates, imagenet_classes, imagenet_templates
from datamodules.text.token_cache import prompt_tokens, stored_tokens, warn_of_cut_captions
from datamodules.text.tokenizer import ModelTokenizer, WordTokenizer
from datamodules.usage_error import SEEDS, UsageError, check_number

if TYPE_CHECKING:
    from datamodules.contracts import Canaries, Labels, Pairs, Prompts, Truth


class PairsDataModule(L.LightningDataModule):
    """Image-caption pairs, poisoned by attacks and split into a safe and a risky side by a defense.

    A data set is a subclass that defines :meth:`load_table` and, if it has images outside the training set,
    :meth:`load_heldout`.

    Args:
        batch_size: Pairs in a training batch, over all processes.
        image_size: Side of a view in pixels: that of the model, which is the default. Set it where there is no model.
        cache_size: Side of the stored pictures in pixels. Defaults to ``image_size``. A larger side keeps detail for
            random crops.
        context_length: Tokens of a caption. Defaults to the context length of the model.
        attacks: Attacks by name, applied in order. A later config file that names attacks replaces the whole mapping.
            ``{}`` means no attacks.
        poison: Train on the poisons. ``false`` leaves them out but still measures the attacks, as a control.
        filters: Rules by name that drop pairs before training, such as ``LedgerFilter``. Attacks choose their images
            and captions before any filter applies, so a filtered run measures the same poisons.
        trusted: Rule whose kept pairs you have checked and vouch for, such as ``KeyList``; of any number, some hundred
            say. SafeCLIP trains them across modalities from the start, and always calls them safe.
        clean_only: Refuse to train on a pair that ``attacks`` has poisoned, as fine-tuning on clean pairs assumes. By
            default, methods that assume it do, and no poison may be ``trusted``. ``false`` trains on poisons, for
            example to measure what they do.
        canaries: Poisons to plant by name, such as ``PatchCanary``, that show whether attacks as strong as these are
            trusted and learned. They are drawn from the pairs that are kept, and trained on like any other pair.
        canary_seed: Secret seed of the canaries, the same in runs that are compared. Defaults to a number drawn from
            ``seed`` and the pairs as loaded, which whoever knows both can repeat: choose your own where an attacker
            may know your settings.
        heldout_name: Name of the held-out set in metrics.
        labeled: Further sets for zero-shot accuracy, by name. Each is a folder with one folder of images per class,
            ``<class>/*.jpg``, or ``ClassFolders`` or ``DownstreamSet``, which also have pictures to train a probe on.
        retrieval_sets: Further held-out pairs for retrieval, by name. Each is a folder that ``clipward protect`` has
            written, so that a model is measured on protected pairs too.
        class_names: Classes of the zero-shot classifier if the data set does not define any: a list of names, which
            differ in more than case, or ``imagenet`` for the 1,000 classes of ImageNet.
        classes_by_words: Measure zero-shot accuracy on held-out pictures without labels. The class of a picture is the
            one of ``class_names``, such as ``[dog, boat]``, that its captions name; pictures that name none or several
            do not count.
        templates: Prompt templates with ``{}`` for the class name. Defaults to the 80 templates of CLIP's authors.
        image_views: Image augmentation in training: one for all views, or a list with one for each view, such as
            ``[CleanView, SimCLRViews]``. By default, images are not augmented.
        caption_views: Caption augmentation in training: one for all views, or a list with one for each view, such as
            ``[null, EDA]``. By default, captions are not augmented.
        order: Order of safe and risky batches in an epoch. ``interleaved`` shuffles them, ``sequential`` puts risky
            batches first, ``joint`` mixes both sides in every batch.
        safe_weight: How many times a safe pair is drawn for each time a risky pair is drawn.
        follow_outside: Also use pictures outside the folder of the data set, to which its list or its links lead. By
            default these are left out, so that a list from the web cannot name private files.
        cache: ``memmap`` decodes every picture once, into ``cache_dir``. ``none`` decodes a picture whenever it is
            read.
        cache_dir: Folder of the caches.
        average_copies: Replace each training picture by the mean of itself and of all that differ from it by at most
            this many levels of 255, as copies with different noise do: 16 for noise of up to 8. By default, pictures
            stay as they are.
        num_workers: Worker processes that load batches, at most one per core.
        seed: Seed of batches and views. Attacks have their own seeds.
        eval_batch_size: Pairs or images per process in a batch of evaluation or scoring.
    """

    def __init__(
        self,
        batch_size: int = 512,
        image_size: int | None = None,
        cache_size: int | None = None,
        context_length: int | None = None,
        attacks: dict[str, Poisoning | None] | None = None,
        poison: bool = True,
        filters: dict[str, Filter | None] | None = None,
        trusted: Filter | None = None,
        clean_only: bool | None = None,
        canaries: dict[str, Canary | None] | None = None,
        canary_seed: int | None = None,
        heldout_name: str = 'heldout',
        labeled: dict[str, LabeledSet | str] | None = None,  # in this order: the name of a class is text, too
        retrieval_sets: dict[str, str] | None = None,
        class_names: list[str] | Literal['imagenet'] = 'imagenet',
        classes_by_words: bool = False,
        templates: list[str] | None = None,
        image_views: ImageViews | list[ImageViews] | None = None,
        caption_views: CaptionViews | list[CaptionViews | None] | None = None,
        order: Order = 'interleaved',
        safe_weight: float = 1.0,
        follow_outside: bool = False,
        cache: Literal['memmap', 'none'] = 'memmap',
        cache_dir: str = 'cache',
        average_copies: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        eval_batch_size: int = 512,
    ) -> None:
        super().__init__()
        sizes = {'batch_size': batch_size, 'image_size': image_size, 'cache_size': cache_size}
        for name, value in {**sizes, 'eval_batch_size': eval_batch_size}.items():
            check_number(f'data.{name}', value, '[1, inf)')
        check_number('data.context_length', context_length, '[2, inf)')
        check_number('data.safe_weight', safe_weight, '(0, inf)')
        check_number('data.average_copies', average_copies, '[1, 255]')
        if average_copies is not None and cache == 'none':
            raise UsageError('data.average_copies compares pictures that are stored: set data.cache=memmap.')
        check_number('data.num_workers', num_workers, '[0, inf)')
        check_number('data.seed', seed, SEEDS)
        check_number('data.canary_seed', canary_seed, SEEDS)
        if class_names != 'imagenet':
            check_class_names(class_names)
        elif classes_by_words:
            raise UsageError('data.classes_by_words needs words: list them as data.class_names.')
        check_set_names(heldout_name, labeled or {}, retrieval_sets or {})
        self.batch_size, self.image_size, self.cache_size = batch_size, image_size, cache_size
        self.context_length, self.heldout_name, self.class_names = context_length, heldout_name, class_names
        self.classes_by_words = classes_by_words
        self.attacks = flatten_attacks(attacks or {})
        self.filters = {name: rule for name, rule in (filters or {}).items() if rule is not None}
        self.trusted, self.clean_only = trusted, clean_only
        self.canaries = named_canaries(canaries or {})
        self.canary_seed = canary_seed
        self.planted: Planted | None = None
        self.poison, self.labeled, self.retrieval_sets = poison, labeled or {}, retrieval_sets or {}
        self.templates = check_templates(imagenet_templates() if templates is None else templates, 'data.templates')
        self.image_views, self.view_makers = image_views, as_makers(image_views)
        self.caption_views, self.caption_rewriters = caption_views, as_rewriters(caption_views)
        self.order, self.safe_weight = order, safe_weight
        self.follow_outside = follow_outside
        self.cache, self.cache_dir, self.average_copies = cache, Path(cache_dir), average_copies
        self.num_workers = min(num_workers, os.cpu_count() or 1)
        self.seed, self.eval_batch_size = seed, eval_batch_size

    # --- defined by a data set ---------------------------------------------------------------------------------------

    @abstractmethod
    def load_table(self) -> PairTable:
        """Reads the training pairs, in an order that is the same on every machine."""

    def load_heldout(self) -> PairTable | None:
        """Reads pairs outside the training set, which attacks take images from and metrics are measured on."""
        return None

    # --- derived from it ---------------------------------------------------------------------------------------------

    @cached_property
    def source(self) -> PairTable:
        """The clean training pairs."""
        return map_strings(leave_out_outside(self.load_table(), self.follow_outside), self.cache_dir)

    @cached_property
    def heldout(self) -> PairTable | None:
        """The held-out pairs."""
        table = self.load_heldout()
        if table is None:
            if self.classes_by_words:
                raise UsageError('data.classes_by_words needs held-out pairs: give some, or set it to false.')
            return None
        table = leave_out_outside(table, self.follow_outside)
        return label_by_words(table, self.class_names) if self.classes_by_words else table

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Class names that the zero-shot classifier chooses from and attacks may target."""
        for table in (self.heldout, self.source):
            if table is not None and table.classes:
                return table.classes
        return imagenet_classes() if self.class_names == 'imagenet' else tuple(self.class_names)

    @cached_property
    def pictures(self) -> PictureStore:
        """The clean stored pictures; decodes those that are not cached yet."""
        return PictureStore(
            self.source, self.heldout, self.stored_size, self.cache_dir, self.cache == 'memmap', self.num_workers,
            self.average_copies,
        )  # fmt: skip

    def attack_pool(self) -> AttackPool:
        """The pairs that attacks choose from, before any attack has chosen."""
        unreadable = {origin: set(rows) for origin, rows in self.pictures.unreadable.items()}
        return AttackPool(self.source, self.heldout, self.classes, self.templates, taken=unreadable)

    def prepare_data(self) -> None:
        """Decodes pictures that are not cached yet, on one process."""
        self._adapt_to_trained_model()
        warn_of_shared_pictures(self.pictures)

    def setup(self, stage: str) -> None:
        """Poisons the table, filters it and builds the evaluation sets, with the same result on every rank."""
        if stage == 'fit':
            self._check_reload()
        self._adapt_to_trained_model()
        pool = self.attack_pool()
        self.table, self.manifest = poison_table(self.attacks, pool)
        overlays = [(self.manifest.rows(), render_poisoned_pictures(self.attacks, self.manifest, self.pictures))]
        self.images = OverlaidPictures(self.pictures.pictures['train'], overlays)
        self.planted = None  # not yet, also when this is called again: filters judge the pairs alone
        self.drops = apply_filters(self.filters, self.table, self.manifest.rows(), self.picture_hashes)
        self.filtered = dropped_by_any(self.drops, len(self.table))
        self.trusted_rows = self._find_trusted(stage)
        fingerprint = self.table.fingerprint  # of the pairs without canaries
        if self.canaries and stage != 'predict':  # which scores the pairs of a user, and nothing else
            overlays.append(self._plant())
            self.images = OverlaidPictures(self.pictures.pictures['train'], overlays)
        self.tokens = stored_tokens(self.table, self.tokenizer, self.cache_dir)
        for rewriter in filter(None, self.caption_rewriters):
            rewriter.study(list_strings(self.table.caption))
        if not self._rank:
            warn_of_cut_captions(self.table, self.tokens, self.tokenizer)
        shared = share_columns(self.cache_dir, len(self.table), COLUMNS, self.trainer)
        self.partition = Partition(len(self.table), fingerprint, shared)
        self.partition.side.numpy()[: len(self.filtered)][self._is_untrained()] = DROPPED
        if stage == 'fit':
            self._check_clean()
        self._sketch: torch.Tensor | None = None
        self.heldout_sets = self._heldout_sets(pool)
        self.evaluation_sets = self._evaluation_sets(pool)
        self._prompts: dict[tuple[tuple[str, ...], tuple[str, ...]], torch.Tensor] = {}
        self._check_batch_size(stage)

    def adapt_to(self, model: L.LightningModule | None) -> None:
        """Takes picture size, context length and tokenizer from a model; :meth:`setup` does so from the trainer's.

        Raises:
            UsageError: If a size is unknown, or is given and differs from the model's.
        """
        self.image_size = self.image_size or getattr(model, 'image_size', None)
        self.context_length = self.context_length or getattr(model, 'context_length', None)
        if self.image_size is None or self.context_length is None:
            raise UsageError('without a model, data.image_size and data.context_length must be set.')
        for name, unit in (('image_size', 'pixels'), ('context_length', 'tokens')):
            size = getattr(self, name)
            if size != (of_model := getattr(model, name, size)):
                raise UsageError(
                    f'data.{name}={size} is not the {of_model} {unit} that model.architecture takes: leave it null.'
                )
        own = getattr(model, 'tokenizer', None)
        self.tokenizer = ModelTokenizer(own, self.context_length) if own else WordTokenizer(self.context_length)

    def _adapt_to_trained_model(self) -> None:
        if self.trainer or not hasattr(self, 'tokenizer'):  # without a trainer, a tool may have named its model
            self.adapt_to(self.trainer.lightning_module if self.trainer else None)

    def _check_reload(self) -> None:
        trainer: Any = self.trainer  # whose type lacks what Lightning sets
        if trainer is not None and trainer.reload_dataloaders_every_n_epochs != 1 and trainer.max_epochs != 1:
            raise UsageError(
                'each epoch has rows and views of its own, for which loaders are rebuilt: set '
                'trainer.reload_dataloaders_every_n_epochs=1.'
            )

    def check_shares(self, processes: int, stage: str) -> None:
        """Refuses a batch that a number of processes cannot share.

        Raises:
            UsageError: If they do not divide it, or would have fewer than two pairs each to train on.
        """
        if self.batch_size % processes:
            raise UsageError(f'data.batch_size={self.batch_size} must be a multiple of the {processes} processes.')
        if stage == 'fit' and self.batch_size < 2 * processes:
            raise UsageError(
                f'data.batch_size={self.batch_size} leaves a process fewer than 2 pairs, and the loss compares pairs: '
                f'set at least {2 * processes}.'
            )

    @property
    def digest(self) -> str:
        """Identifies the pairs, poisons and canaries, and which of them are left out; equal on all processes."""
        left_out = mask_digest((self.partition.side == DROPPED).numpy())
        return f'{self.table.fingerprint} {self._trained_poisons} {self._canary_digest} {left_out}'

    @property
    def stored_size(self) -> int:
        """Side of a stored picture in pixels."""
        size = self.cache_size or self.image_size
        assert size is not None
        return size

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch, all of them full; the same in every epoch."""
        return int(np.count_nonzero(self.partition.side.numpy() != DROPPED)) // self.batch_size

    def picture_hashes(self) -> np.ndarray:
        """A hash of each row's stored picture, int64 (N,), equal for equal pixels; computed once and cached."""
        name = name_poisoned_pictures(self.attacks, self.manifest, self.pictures)
        if self.planted is not None:
            name += self.planted.picture_cache.removeprefix(self.pictures.name)

        def fill(hashes: np.ndarray) -> None:
            hashes[:] = picture_hashes(self.images, len(hashes))

        return stored_array(self.cache_dir / f'{name}-hashes.npy', (len(self.table),), np.int64, fill)

    @property
    def trained_pairs(self) -> torch.Tensor:
        """Sketch of the pairs that are trained on, see :func:`datamodules.rows.pair_sketch.sketch`."""
        if self._sketch is None:  # seconds for millions of pairs, and only checkpoints need it
            self._sketch = sketch_pairs(self.table, self.partition.side.numpy() != DROPPED)
        return self._sketch

    # --- labels ------------------------------------------------------------------------------------------------------

    def row_labels(self) -> np.ndarray:
        """Class of the image of each row as an index into ``classes``, int64 (N,).

        Raises:
            UsageError: If a row that is trained on has none.
        """
        label = translate_labels(self.table.label, self.table.classes, self.classes)
        trained = self.partition.side.numpy() != DROPPED
        if missing := int((label[trained] == UNKNOWN).sum()):
            raise UsageError(
                f'{missing:,} of the {trained.sum():,} pairs to train on have no class: use labeled images, such as '
                f'those of CaptionedImages, or drop the others with data.filters.'
            )
        return label

    def sets_with_these_classes(self) -> list[bool]:
        """Whether each evaluation set has the classes that labels point into."""
        return [tuple(each.classes) == tuple(self.classes) for each in self.evaluation_sets]

    # --- canaries ----------------------------------------------------------------------------------------------------

    @property
    def canary_count(self) -> int:
        """Number of pairs that are canaries; they are the last rows of the table."""
        return 0 if self.planted is None else len(self.planted)

    def canary_rows(self) -> dict[str, np.ndarray]:
        """Rows of each canary by its name, ascending, int64."""
        return {} if self.planted is None else self.planted.rows(len(self.table) - self.canary_count)

    def canary_dataloader(self) -> DataLoader[EvalBatch]:
        """Reads this process's share of the pictures on which canaries are measured, see :class:`Canaries`."""
        assert self.planted is not None
        return self.evaluation_dataloader(self.planted.evaluation)

    def canary_prompts(self) -> torch.Tensor:
        """Tokens of captions of each canary, int64 (C, P, T)."""
        assert self.planted is not None
        captions = self.planted.captions()
        return torch.from_numpy(np.array([[self.tokenizer(each) for each in of_canary] for of_canary in captions]))

    def _plant(self) -> tuple[np.ndarray, np.ndarray]:
        """Appends the canaries to the table; returns their rows and pictures. Attacks have no say in what they are."""
        is_kept = ~self.filtered[: len(self.source)]
        is_kept[list(self.pictures.unreadable['train'])] = False
        kept = row_numbers(is_kept)
        secret = secret_seed(self.seed, self.source.fingerprint) if self.canary_seed is None else self.canary_seed
        self.planted = plant(self.canaries, self.source, self.heldout, kept, self.pictures, secret)
        pairs = len(self.table)
        self.table = self.planted.append_to(self.table, self.source)
        return np.arange(pairs, len(self.table)), self.planted.pictures()

    # --- loaders -----------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader[PairBatch]:
        # trainer.current_epoch is one too low while a run is being resumed.
        trainer: Any = self.trainer
        epoch = trainer.fit_loop.epoch_progress.current.processed
        sides = trainer.lightning_module.sides(epoch)
        if (draws := getattr(trainer.lightning_module, 'draws', None)) is not None:  # of a module that changes pictures
            return self._loader(draws(epoch), sides, STORED)
        for later in range(epoch, max(epoch + 1, trainer.max_epochs or 0)):  # not after hours of other epochs
            views = max(trainer.lightning_module.sides(later).values())
            check_views(self.view_makers, views, 'data.image_views')
            check_views(self.caption_rewriters, views, 'data.caption_views')
        cross_modal, within_modal = self.rows_of_sides(sides)
        sampler = PartitionSampler(
            cross_modal, within_modal, self.steps_per_epoch, self.batch_size, seed=self.seed, epoch=epoch,
            rank=self._rank, world=self._world, order=self.order, safe_weight=self.safe_weight,
        )  # fmt: skip
        views_of = {'cross_modal' if side == 'trusted' else side: number for side, number in sides.items()}
        return self._loader(sampler, views_of, epoch)

    def rows_of_sides(self, sides: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
        """Rows that an epoch trains across modalities, and rows that it trains within them.

        If an epoch has only one side, every pair that is kept is on it. Beside a ``trusted`` side, all pairs that are
        kept are trained within each modality.

        Args:
            sides: Number of views on each side, as ``CLIP.sides`` returns it. A side with 0 views is skipped.

        Raises:
            UsageError: If no pair is left to train on.
        """
        side, none = self.partition.side.numpy(), np.empty(0, np.int64)
        if 'trusted' in sides:
            cross_modal, within_modal = self.trusted_rows, row_numbers(side != DROPPED)
        elif len(sides) == 1:
            rows = row_numbers(side != DROPPED)
            cross_modal, within_modal = (rows, none) if 'cross_modal' in sides else (none, rows)
        else:
            cross_modal = row_numbers(side == SAFE)
            within_modal = row_numbers(side == RISKY) if sides['within_modal'] else none
        if not len(cross_modal) and not len(within_modal):
            raise UsageError('no pair is left to train on: lower callbacks.repartition.threshold or set min_fraction.')
        return cross_modal, within_modal

    def sweep_dataloader(
        self, epoch: int = CLEAN, rows: np.ndarray | None = None, views: int = 1
    ) -> DataLoader[PairBatch]:
        """Reads pairs once over all ranks, in order of their rows.

        Args:
            epoch: Epoch whose augmented views are read; ``CLEAN`` for pairs without augmentation.
            rows: Rows to read, ascending, int64; ``None`` reads all that are not dropped.
            views: Views of each pair.
        """
        rows = row_numbers(self.partition.side.numpy() != DROPPED) if rows is None else rows
        rows = rows[self._rank :: self._world]
        parts = np.array_split(rows, -(-len(rows) // self.eval_batch_size)) if len(rows) else []
        return self._loader([Draw(part, len(part)) for part in parts], {'cross_modal': views}, epoch)

    def heldout_dataloader(self, name: str | None = None) -> DataLoader[PairBatch]:
        """Reads this process's share of a set of held-out pairs, without augmentation and in order, for metrics.

        The rows of its batches are rows of the set's table. Unreadable pictures and those used as poisons are left out.

        Args:
            name: Name of the set; ``None`` for the held-out pairs of the data set itself.

        Raises:
            UsageError: If no pairs are held out.
        """
        heldout = self.heldout_sets.get(self.heldout_name if name is None else name)
        if heldout is None:
            raise UsageError(f'{type(self).__name__} has no held-out pairs to measure on: give it some, see data.help.')
        rows = heldout.rows[self._rank :: self._world]
        return heldout_loader(heldout, rows, self.tokenizer, self.cache_dir, self.eval_batch_size)

    def predict_dataloader(self) -> DataLoader[PairBatch]:
        return self.sweep_dataloader()

    def evaluation_dataloader(self, source: EvaluationSet) -> DataLoader[EvalBatch]:
        """Reads this process's share of the pictures of an evaluation set, in order."""
        return evaluation_loader(source, self.eval_batch_size, self._rank, self._world)

    def val_dataloader(self) -> list[DataLoader[EvalBatch]]:
        return [self.evaluation_dataloader(source) for source in self.evaluation_sets]

    def test_dataloader(self) -> list[DataLoader[EvalBatch]]:
        return self.val_dataloader()

    def prompt_tokens(self) -> list[torch.Tensor]:
        """Tokens of the prompts of each evaluation set, int64 (C, P, T)."""
        for each in self.evaluation_sets:
            if (each.classes, each.templates) not in self._prompts:
                tokens = prompt_tokens(each.classes, each.templates, self.tokenizer)
                self._prompts[each.classes, each.templates] = tokens
        return [self._prompts[each.classes, each.templates] for each in self.evaluation_sets]

    def kept_array(self, name: str, shape: tuple[int, ...], fill: Callable[[np.ndarray], None]) -> np.ndarray:
        """An array that is made once and kept in ``cache_dir``, float32; its name must determine its content."""
        return stored_array(self.cache_dir / f'{name}.npy', shape, np.float32, fill)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augments and normalizes the pictures of a batch, on the device."""
        assert self.image_size is not None
        if isinstance(batch, EvalBatch):
            return batch._replace(image=clean_view(batch.image, self.image_size))
        if batch.epoch == STORED:
            return batch
        return batch._replace(image=make_views(batch, self.view_makers, self.image_size, self.seed))

    # --- resume ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            'version': 2,
            'partition': self.partition.state_dict(),
            'poisons': self._trained_poisons,
            'filters': mask_digest(self.filtered),
            'trusted': self._trusted_digest,
            'canaries': self._canary_digest,
            'trained_pairs': self.trained_pairs,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.trainer is None or self.trainer.state.fn != 'fit':  # a model may be evaluated on other data
            return
        if state_dict.get('canaries') != self._canary_digest:  # absent before there were canaries
            raise UsageError(
                'the checkpoint was trained with other canaries than data.canaries plants: resume with the canaries, '
                'data.canary_seed and filters of that run, or start from its weights with model.init_from instead of '
                'ckpt_path.'
            )
        self.partition.load_state_dict(state_dict['partition'])
        if state_dict['poisons'] != self._trained_poisons:  # also differs if only the trigger does
            raise UsageError(
                'the checkpoint was trained on other poisons than data.attacks makes: resume with the attacks and '
                'data.poison of that run, or start from its weights with model.init_from instead of ckpt_path.'
            )
        if state_dict.get('filters') != mask_digest(self.filtered):  # absent from version 1, which had no filters
            raise UsageError(
                'the checkpoint was trained on other pairs than data.filters keep: resume with the filters and files '
                'of that run, or start from its weights with model.init_from instead of ckpt_path.'
            )
        if state_dict.get('trusted') != self._trusted_digest:  # absent before pairs could be trusted
            raise UsageError(
                'the checkpoint was trained with other trusted pairs than data.trusted keeps: resume with the rule and '
                'files of that run, or start from its weights with model.init_from instead of ckpt_path.'
            )

    # --- helpers -----------------------------------------------------------------------------------------------------

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _world(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    @property
    def _trained_poisons(self) -> str:
        """Identifies the poisons that are trained on."""
        return self.manifest.digest if self.poison else 'none'

    @property
    def _canary_digest(self) -> str | None:
        return None if self.planted is None else self.planted.manifest.digest

    @property
    def _trusted_digest(self) -> str | None:
        return mask_digest(mark_rows(self.trusted_rows, len(self.filtered)))

    def _find_trusted(self, stage: str) -> np.ndarray:
        """Rows that the user trusts, ascending, int64. Training alone uses them."""
        if self.trusted is None or stage != 'fit':
            return np.empty(0, np.int64)
        model = self.trainer.lightning_module if self.trainer else None
        if model is not None and not getattr(model, 'uses_trusted_pairs', False):
            raise UsageError(
                f'data.trusted has no effect on {type(model).__name__}, which trains all pairs alike: use SafeCLIP, or '
                f'set it to null.'
            )
        poisons = self.manifest.rows()
        return find_trusted(self.trusted, self.table, self._is_untrained(), poisons, self.picture_hashes)

    def _is_untrained(self) -> np.ndarray:
        """Marks the pairs to leave out: filtered and unreadable ones and, with ``poison=False``, poisons; bool (N,)."""
        is_unusable = mark_rows(list(self.pictures.unreadable['train']), len(self.filtered))
        is_unusable[self.manifest.rows()] = not self.poison  # a poison has its own picture, its row's may be unreadable
        return is_unusable | self.filtered

    def _check_clean(self) -> None:
        """Refuses poisons among pairs that are to be clean. Only those of ``attacks`` are known."""
        model = self.trainer.lightning_module if self.trainer else None
        clean_only = getattr(model, 'assumes_clean_pairs', False) if self.clean_only is None else self.clean_only
        poisons = np.sort(self.manifest.rows())
        trusted = np.intersect1d(self.trusted_rows, poisons)
        if self.clean_only is not False and len(trusted):
            raise UsageError(
                f'{len(trusted):,} of the {len(self.trusted_rows):,} pairs of data.trusted are poisons of '
                f'data.attacks, first row {trusted[0]}: use a rule that keeps none, such as CleanSubset, or set '
                f'data.clean_only=false.'
            )
        poisons = poisons[self.partition.side.numpy()[poisons] != DROPPED]
        if clean_only and len(poisons):
            raise UsageError(
                f'{len(poisons):,} of the pairs to train on, which should be clean, are poisons of data.attacks, first '
                f'row {poisons[0]}: drop them with data.filters, such as CleanSubset, or set data.clean_only=false.'
            )

    def _heldout_sets(self, pool: AttackPool) -> dict[str, HeldoutSet]:
        """The held-out pairs, if there are any, then those of ``retrieval_sets``, by name."""
        sets = {}
        if self.heldout is not None:
            rows = np.flatnonzero(~pool.of_taken_images('heldout'))
            sets[self.heldout_name] = HeldoutSet(self.heldout, self.pictures.pictures['heldout'], rows)
        for name, folder in self.retrieval_sets.items():
            table = leave_out_outside(read_published(folder, f'data.retrieval_sets.{name}'), self.follow_outside)
            images, readable = self.pictures.decode(table)
            if not readable.any():
                raise UsageError(
                    f'data.retrieval_sets.{name}={folder!r}: none of its {len(table):,} pictures can be read: give the '
                    f'whole folder that clipward protect has written.'
                )
            sets[name] = HeldoutSet(table, images, np.flatnonzero(readable))
        return sets

    def _evaluation_sets(self, pool: AttackPool) -> list[EvaluationSet]:
        """The held-out set if it has labels, then the sets in ``labeled``, then one set for each attack."""
        sets = []
        if self.heldout is not None and (self.heldout.label != UNKNOWN).any():
            label = pool.labels('heldout', np.arange(len(self.heldout)))
            label[pool.of_taken_images('heldout')] = UNKNOWN  # unreadable, or used as a poison
            images = np.asarray(self.pictures.pictures['heldout'])
            if self.classes_by_words:  # most pictures have no label
                labeled = np.flatnonzero(label != UNKNOWN)
                images, label = images[labeled], label[labeled]
            train = self._training_split(pool)
            sets.append(
                EvaluationSet(self.heldout_name, images, label, None, self.classes, self.templates, train=train)
            )
        for name, given in self.labeled.items():
            source = FolderOfClasses(given) if isinstance(given, str) else given
            sets.append(build_labeled_set(name, source, self.pictures.decode, self.templates, self.follow_outside))
        for name in self.manifest.attacks:
            sets.append(self.attacks[name].evaluation(name, self.manifest.poisons(name), pool, self.pictures))
        return sets

    def _training_split(self, pool: AttackPool) -> Callable[[], EvaluationSet] | None:
        """The clean training pictures with their labels, for a probe; ``None`` if none has a label."""
        if not self.source.classes:
            return None
        label = translate_labels(self.source.label, self.source.classes, self.classes)
        label[list(self.pictures.unreadable['train'])] = UNKNOWN
        if (label == UNKNOWN).all():
            return None
        pictures = self.pictures.pictures['train']
        return lambda: EvaluationSet(self.heldout_name, pictures, label, None, self.classes, self.templates)

    def _check_batch_size(self, stage: str) -> None:
        self.check_shares(self._world, stage)
        if stage == 'fit' and not self.steps_per_epoch:
            pairs = int((self.partition.side != DROPPED).sum())
            if pairs < 2:
                raise UsageError(f'the loss compares pairs, and the data has {pairs} to train on: give it at least 2.')
            raise UsageError(f'data.batch_size={self.batch_size} is larger than the {pairs} usable pairs: lower it.')
        if stage == 'fit' and self.trainer is not None:
            check_evaluation_interval(self.trainer, self.steps_per_epoch)

    def _loader(self, draws: Any, views: Mapping[str, int], epoch: int) -> DataLoader[PairBatch]:
        dataset = PairDataset(
            self.table, self.images, self.tokenizer, self.tokens, self.caption_rewriters, dict(views), self.seed, epoch
        )
        # With its own generator, so that making an iterator does not draw from the global one.
        return DataLoader(
            dataset, sampler=draws, batch_size=None, pin_memory=self._on_gpu,
            generator=torch.Generator().manual_seed(self.seed), **worker_options(self.num_workers),
        )  # fmt: skip

    @property
    def _on_gpu(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == 'cuda'


if TYPE_CHECKING:  # mypy checks that the class keeps its contracts

    def _keeps_contracts(data: PairsDataModule) -> tuple[Pairs, Canaries, Labels, Prompts, Truth]:
        return data, data, data, data, data
