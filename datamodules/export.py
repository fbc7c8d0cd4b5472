"""Writes a poisoned data set as files that other code bases read, with the pixels that Clipward trains on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datamodules.attacks.base import Attack
from datamodules.attacks.pool import translate_labels
from datamodules.attacks.triggers import Trigger
from datamodules.evaluation.sets import EvaluationSet
from datamodules.files.atomic import fill_atomically
from datamodules.files.workers import worker_options
from datamodules.files.writers import WrittenPair, as_png, open_csv, require_empty, write_csv, write_shards
from datamodules.pairs import PairsDataModule
from datamodules.pictures.batches import OverlaidPictures
from datamodules.pictures.cache import DecodedPictures, decode_pictures
from datamodules.rows.partition import DROPPED
from datamodules.rows.table import UNKNOWN, PairTable
from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)

Form = Literal['csv', 'webdataset']
_CAPTIONS_AT_ONCE = 8192


def export(data: PairsDataModule, folder: Path, form: Form = 'csv') -> int:
    """Writes the training pairs, and all that another code base needs to measure the attacks on its own model.

    Pictures are written as lossless PNG, as stored: poisons included, before augmentation. The truth about poisons is
    in files of its own, not among the pairs:

    - ``csv``: ``train.csv`` with the columns row (its header is empty), ``image`` and ``caption``, and
      ``images/<row>.png``. ``data.csv`` holds the same without a header, in the form that Huang et al. (2025) read
      from a folder ``data``. ``webdataset``: ``train/00000.tar`` and so on, with ``<row>.png`` and ``<row>.txt``.
    - ``heldout.csv`` and ``heldout/``: held-out pairs that are not poisons, with the index of their class if known.
    - ``test/<attack>.csv`` and ``test/<attack>/``: pictures on which success is measured, with label and target.
    - ``sources.parquet``: ``row`` of each written pair; its ``key``, which is the file or the shard and sample of its
      picture; and the sample's ``uid``, if any has one.
    - ``manifest.parquet``: every poisoned row. ``poison_manifest.json``: the attacks and the class names.
      ``train_poison_info.json``: Huang et al.'s list of positions in ``train.csv``, if all poisons have one target.

    The folder has a temporary name until it is complete. Dropped and unreadable pairs are left out and counted.

    Args:
        data: The pairs, after ``setup``.
        folder: Folder to write; must be missing or empty.
        form: Form of the training pairs.

    Returns:
        Number of training pairs written.

    Raises:
        UsageError: If the folder is in use, ``form`` is unknown, or the disk is full.
    """
    if form not in get_args(Form):
        raise UsageError(f'form must be one of {", ".join(get_args(Form))}, got {form!r}.')
    kept = np.zeros(len(data.table) - data.canary_count, bool)  # canaries are a secret of the defender's runs
    with fill_atomically(require_empty(folder)) as temporary:
        if form == 'csv':
            write_csv(temporary, _encode_pairs(data, kept))
        else:
            write_shards(temporary / 'train', _encode_pairs(data, kept))
        write_heldout(temporary, data)
        for measured in data.evaluation_sets:
            if measured.kind == 'asr':
                _write_test_pictures(temporary / 'test', measured)
        _write_truth(temporary, data, kept)
    if not kept.all():
        log.warning('%d of %d pairs are dropped or unreadable and are left out', (~kept).sum(), len(kept))
    return int(kept.sum())


# --- training pairs -------------------------------------------------------------------------------------------------


class _EncodedPictures(Dataset[tuple[int, bytes | None]]):
    """Maps a position in ``rows`` to the row and its picture as PNG, or ``None`` if it cannot be read."""

    def __init__(self, images: OverlaidPictures, rows: np.ndarray) -> None:
        self.images, self.rows = images, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> tuple[int, bytes | None]:
        row, clean = int(self.rows[position]), self.images.clean
        if not self.images.is_overlaid(row) and isinstance(clean, DecodedPictures):
            picture, readable = clean[row]
        else:
            picture, readable = self.images(self.rows[position : position + 1])[0], True
        return row, as_png(picture) if readable else None


def _encode_pairs(data: PairsDataModule, kept: np.ndarray) -> Iterator[WrittenPair]:
    """Yields the pairs to write, and marks their rows in ``kept``, bool (N,)."""
    rows = np.flatnonzero(data.partition.side.numpy()[: len(kept)] != DROPPED)
    starts = range(0, len(rows), _CAPTIONS_AT_ONCE)
    captions = (caption for start in starts for caption in data.table.captions(rows[start : start + _CAPTIONS_AT_ONCE]))
    encoded = _EncodedPictures(data.images, rows)
    pictures = DataLoader(encoded, batch_size=None, **worker_options(data.num_workers))
    for (row, png), caption in zip(tqdm(pictures, 'exporting', leave=False), captions, strict=True):
        if png is not None:
            kept[row] = True
            yield row, png, caption


# --- evaluation pictures --------------------------------------------------------------------------------------------


def write_heldout(folder: Path, data: PairsDataModule) -> None:
    """Writes ``heldout.csv`` and ``heldout/``, without unreadable pictures and any used as poison.

    Args:
        folder: Folder to write to.
        data: The pairs, after ``setup``; without held-out ones, nothing is written.
    """
    table = data.heldout
    if table is None:
        return
    images, readable = decode_pictures(table, data.stored_size, data.cache_dir, data.num_workers)
    poisons = [poison for name in data.manifest.attacks for poison in data.manifest.poisons(name)]
    used = [row for p in poisons if p.origin == 'heldout' for row in (p.source, p.other) if row >= 0]
    poisoned = pa.array([table.image[row].as_py() for row in used], table.image.type)
    rows = np.flatnonzero(readable & ~np.asarray(pc.is_in(table.image, value_set=poisoned)))
    labels = translate_labels(table.label[rows], table.classes, data.classes)
    (folder / 'heldout').mkdir()
    with open_csv(folder / 'heldout.csv') as lines:
        lines.writerow(['', 'image', 'caption', 'label'])
        for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
            (folder / 'heldout' / f'{row}.png').write_bytes(as_png(images[row]))
            lines.writerow([row, f'heldout/{row}.png', *table.captions([row]), label_field(label)])


def _write_test_pictures(folder: Path, measured: EvaluationSet) -> None:
    """Triggered pictures, with the index of their class if known and that of the attack's target."""
    assert measured.target is not None
    (folder / measured.name).mkdir(parents=True)
    with open_csv(folder / f'{measured.name}.csv') as lines:
        lines.writerow(['image', 'label', 'target'])
        for number, (label, target) in enumerate(zip(measured.label.tolist(), measured.target.tolist(), strict=True)):
            name = f'{measured.name}/{number}.png'
            (folder / name).write_bytes(as_png(measured.images[number]))
            lines.writerow([name, label_field(label), target])


def label_field(label: int) -> str:
    """The field of a class's index, empty if it is not known."""
    return '' if label == UNKNOWN else str(label)


# --- the truth ------------------------------------------------------------------------------------------------------


def _write_truth(folder: Path, data: PairsDataModule, kept: np.ndarray) -> None:
    data.manifest.save(folder / 'manifest.parquet')
    pq.write_table(_list_sources(data.table, np.flatnonzero(kept)), folder / 'sources.parquet')
    measured = {each.name: each for each in data.evaluation_sets if each.kind == 'asr'}
    content = {
        'pairs': int(kept.sum()),
        'left_out': int((~kept).sum()),
        'clean_pairs': data.manifest.clean_rows,
        'poison_included': data.poison,
        'pixels': data.stored_size,
        'classes': data.classes,
        'attacks': {name: _describe_attack(name, data, measured[name]) for name in data.manifest.attacks},
    }
    _write_json(folder / 'poison_manifest.json', content)
    if (info := _poison_info(data, kept)) is not None:
        _write_json(folder / 'train_poison_info.json', info)


def _list_sources(table: PairTable, rows: np.ndarray) -> pa.Table:
    """Says where pairs come from, so that they can be found again; among the pairs, it would reveal poisons."""
    named = {'key': table.names()} | {kind: keys for kind, keys in table.keys.items() if kind == 'uid'}
    return pa.table({'row': pa.array(rows), **{name: keys.take(pa.array(rows)) for name, keys in named.items()}})


def _describe_attack(name: str, data: PairsDataModule, measured: EvaluationSet) -> dict[str, Any]:
    """Describes an attack beyond its poisoned rows."""
    attack, rows = data.attacks[name], data.manifest.rows(name)
    trigger = None if attack.trigger is None else attack.trigger.describe()
    return {
        'kind': type(attack).__name__,
        'parameters': _plain_parameters(attack),
        'poisons': len(rows),
        'rate': len(rows) / data.manifest.clean_rows,
        'appended': int((rows >= data.manifest.clean_rows).sum()),
        'replaced': int((rows < data.manifest.clean_rows).sum()),
        'trigger': trigger and json.loads(trigger),
        'trigger_sha256': trigger and hashlib.sha256(trigger.encode()).hexdigest(),
        'test_pictures': len(measured),
        'target_class_excluded': bool((measured.label != measured.target).all()),
        'templates': measured.templates,
    }


def _plain_parameters(attack: Attack) -> dict[str, Any]:
    """Arguments of an attack, with descriptions in place of triggers."""
    public = {name: value for name, value in vars(attack).items() if not name.startswith('_')}
    return {name: json.loads(v.describe()) if isinstance(v, Trigger) else v for name, v in public.items()}


def _poison_info(data: PairsDataModule, kept: np.ndarray) -> dict[str, Any] | None:
    """The list of poisons that Huang et al.'s detectors read; ``None`` without poisons or with several targets."""
    lines = data.manifest.table.select(['row', 'target_class', 'caption']).to_pylist()
    lines = [line for line in lines if kept[line['row']]]
    targets = {line['target_class'] for line in lines}
    if len(targets) != 1:
        return None
    position = np.cumsum(kept) - 1  # position of each row among the written pairs
    indices = [int(position[line['row']]) for line in lines]
    return {
        'poison_indices': indices,
        'poison_label': targets.pop(),
        'poison_rate': len(indices) / int(kept.sum()),
        'poison_text': {str(index): line['caption'] for index, line in zip(indices, lines, strict=True)},
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    # A value that JSON cannot hold, such as a surrogate model, is replaced by the name of its class.
    path.write_text(json.dumps(content, indent=1, default=lambda value: type(value).__name__) + '\n')
