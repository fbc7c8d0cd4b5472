"""A poisoned data set as files that other code bases read, pixel by pixel as training here sees it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datamodules.attacks.base import Attack
from datamodules.attacks.pool import translate_labels
from datamodules.attacks.triggers import Trigger
from datamodules.evaluation.sets import EvaluationSet
from datamodules.pairs import PairsDataModule
from datamodules.pictures.batches import OverlaidPictures
from datamodules.pictures.cache import DecodedPictures, decode_pictures
from datamodules.rows.partition import DROPPED
from datamodules.rows.table import UNKNOWN
from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)

Form = Literal['csv', 'webdataset']
PAIRS_OF_A_SHARD = 10_000  # as img2dataset has it
_AT_ONCE = 8192  # captions


class Pair(NamedTuple):
    """A pair as it is written."""

    row: int
    png: bytes
    caption: str


def export(data: PairsDataModule, folder: Path, form: Form = 'csv') -> int:
    """Writes the pairs that would be trained on, and what it takes to measure the attacks on another code's model.

    Pictures are those that are stored, poison included, before any augmentation, as PNG, which loses nothing. The
    truth about poison is beside the pairs and never among them:

    - ``csv``: ``train.csv`` with columns ``image`` and ``caption`` after one of row numbers, and ``images/<row>.png``;
      the same as ``data.csv`` without a header, in the form that Huang et al. (2025) read from a folder ``data``.
      ``webdataset``: ``train/00000.tar`` and so on, with ``<row>.png`` and ``<row>.txt``.
    - ``heldout.csv`` and ``heldout/``: held-out pairs that are no poison, with the number of their class if known.
    - ``test/<attack>.csv`` and ``test/<attack>/``: pictures on which success is measured, with label and target.
    - ``manifest.parquet``: every poisoned row. ``poison_manifest.json``: the attacks, and the names of classes.
      ``train_poison_info.json``: Huang et al.'s list, by place in ``train.csv``, if all poison is of one target.

    The folder has another name until all is written. Pairs that are dropped or cannot be read are left out, counted.

    Args:
        data: The pairs, set up.
        folder: Where to; must not exist, or be empty.
        form: Of the training pairs.

    Returns:
        Number of training pairs written.

    Raises:
        UsageError: If the folder is in use or ``form`` unknown.
    """
    if form not in get_args(Form):
        raise UsageError(f'form must be one of {", ".join(get_args(Form))}, got {form!r}.')
    part = _unfinished(vacant(folder))
    part.mkdir(parents=True)
    kept = np.zeros(len(data.table), bool)
    pairs = _pairs(data, kept)
    if form == 'csv':
        _write_files(part, pairs)
    else:
        _write_shards(part / 'train', pairs)
    _write_heldout(part, data)
    for measured in data.evaluation_sets:
        if measured.kind == 'asr':
            _write_pictures(part / 'test', measured)
    _write_truth(part, data, kept)
    part.replace(folder)
    if not kept.all():
        log.warning('%d of %d pairs are dropped or unreadable and are left out', (~kept).sum(), len(kept))
    return int(kept.sum())


def vacant(folder: Path) -> Path:
    """The folder, if it can be exported to.

    Raises:
        UsageError: If there is something in it, or an earlier export to it was stopped halfway.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f'folder={str(folder)!r} is there already and not empty: name another one.')
    if _unfinished(folder).exists():
        raise UsageError(f'{_unfinished(folder)} is what an export that was stopped has left behind: delete it.')
    return folder


def _unfinished(folder: Path) -> Path:
    return folder.with_name(f'{folder.name}.part')


# --- training pairs -------------------------------------------------------------------------------------------------


class _Encoded(Dataset[tuple[int, bytes | None]]):
    """Place -> row and picture as PNG, ``None`` where it cannot be read."""

    def __init__(self, images: OverlaidPictures, rows: np.ndarray) -> None:
        self.images, self.rows = images, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> tuple[int, bytes | None]:
        row, clean = int(self.rows[place]), self.images.clean
        if not self.images.is_overlaid(row) and isinstance(clean, DecodedPictures):
            picture, readable = clean[row]
        else:
            picture, readable = self.images(self.rows[place : place + 1])[0], True
        return row, _png(picture) if readable else None


def _pairs(data: PairsDataModule, kept: np.ndarray) -> Iterator[Pair]:
    """Pairs one after the other; marks in ``kept``, bool (N,), which of the table's rows they are."""
    rows = np.flatnonzero(data.partition.side.numpy() != DROPPED)
    starts = range(0, len(rows), _AT_ONCE)
    captions = (caption for start in starts for caption in data.table.captions(rows[start : start + _AT_ONCE]))
    pictures = DataLoader(_Encoded(data.images, rows), batch_size=None, num_workers=data.num_workers)
    for (row, png), caption in zip(tqdm(pictures, 'exporting', leave=False), captions, strict=True):
        if png is not None:
            kept[row] = True
            yield Pair(row, png, caption)


def _png(picture: np.ndarray) -> bytes:
    """Encodes a picture, uint8 (3, h, w); at the lowest level, which takes two thirds of the time for a tenth more."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).save(file, 'PNG', compress_level=1)
    return file.getvalue()


@contextmanager
def _lines(path: Path) -> Iterator[Any]:
    """Writes lines of a CSV."""
    with path.open('w', newline='', encoding='utf-8') as file:
        yield csv.writer(file, lineterminator='\n')


def _write_files(folder: Path, pairs: Iterator[Pair]) -> None:
    """A file for each picture, and the tables that CleanCLIP and open_clip, and Huang et al., read."""
    (folder / 'images').mkdir()
    with _lines(folder / 'train.csv') as train, _lines(folder / 'data.csv') as plain:
        train.writerow(['', 'image', 'caption'])
        for row, png, caption in pairs:
            name = f'{row}.png'
            (folder / 'images' / name).write_bytes(png)
            train.writerow([row, f'images/{name}', caption])
            plain.writerow([name, caption, ''])  # the third is an address in the web


def _write_shards(folder: Path, pairs: Iterator[Pair]) -> None:
    folder.mkdir()
    for number, shard in groupby(enumerate(pairs), lambda numbered: numbered[0] // PAIRS_OF_A_SHARD):
        with tarfile.open(folder / f'{number:05d}.tar', 'w') as tar:
            for _, (row, png, caption) in shard:
                for suffix, content in (('png', png), ('txt', caption.encode())):
                    member = tarfile.TarInfo(f'{row:09d}.{suffix}')
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


# --- what success is measured on ------------------------------------------------------------------------------------


def _write_heldout(folder: Path, data: PairsDataModule) -> None:
    """Held-out pairs, without those whose picture cannot be read or is poison, as any of its captions."""
    table = data.heldout
    if table is None:
        return
    images, readable = decode_pictures(table, data.stored_size, data.cache_dir, data.num_workers)
    poisons = [poison for name in data.manifest.attacks for poison in data.manifest.poisons(name)]
    used = [row for p in poisons if p.origin == 'heldout' for row in (p.source, p.other) if row >= 0]
    poisoned = pa.array([table.image[row].as_py() for row in used], table.image.type)
    rows = np.flatnonzero(readable & ~np.asarray(pc.is_in(table.image, value_set=poisoned)))
    label = translate_labels(table.label[rows], table.classes, data.classes)
    (folder / 'heldout').mkdir()
    with _lines(folder / 'heldout.csv') as lines:
        lines.writerow(['', 'image', 'caption', 'label'])
        for row, kind in zip(rows.tolist(), label.tolist(), strict=True):
            (folder / 'heldout' / f'{row}.png').write_bytes(_png(images[row]))
            lines.writerow([row, f'heldout/{row}.png', *table.captions([row]), _known(kind)])


def _write_pictures(folder: Path, measured: EvaluationSet) -> None:
    """Pictures with their trigger on, the number of their class if known, and that of the attack's target."""
    assert measured.target is not None
    (folder / measured.name).mkdir(parents=True)
    with _lines(folder / f'{measured.name}.csv') as lines:
        lines.writerow(['image', 'label', 'target'])
        for number, (label, target) in enumerate(zip(measured.label.tolist(), measured.target.tolist(), strict=True)):
            name = f'{measured.name}/{number}.png'
            (folder / name).write_bytes(_png(measured.images[number]))
            lines.writerow([name, _known(label), target])


def _known(label: int) -> str:
    return '' if label == UNKNOWN else str(label)


# --- the truth ------------------------------------------------------------------------------------------------------


def _write_truth(folder: Path, data: PairsDataModule, kept: np.ndarray) -> None:
    data.manifest.save(folder / 'manifest.parquet')
    measured = {found.name: found for found in data.evaluation_sets if found.kind == 'asr'}
    about = {
        'pairs': int(kept.sum()),
        'left_out': int((~kept).sum()),
        'clean_pairs': data.manifest.clean_rows,
        'poison_included': data.poison,
        'pixels': data.stored_size,
        'classes': data.classes,
        'attacks': {name: _described(name, data, measured[name]) for name in data.manifest.attacks},
    }
    _write_json(folder / 'poison_manifest.json', about)
    if (listed := _poison_info(data, kept)) is not None:
        _write_json(folder / 'train_poison_info.json', listed)


def _described(name: str, data: PairsDataModule, measured: EvaluationSet) -> dict[str, Any]:
    """All about an attack that its poisoned rows do not say."""
    attack, rows = data.attacks[name], data.manifest.rows(name)
    trigger = None if attack.trigger is None else attack.trigger.describe()
    return {
        'kind': type(attack).__name__,
        'parameters': _parameters(attack),
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


def _parameters(attack: Attack) -> dict[str, Any]:
    """Arguments of an attack as far as they are plain values or triggers."""
    found = {name: value for name, value in vars(attack).items() if not name.startswith('_')}
    return {name: json.loads(v.describe()) if isinstance(v, Trigger) else v for name, v in found.items()}


def _poison_info(data: PairsDataModule, kept: np.ndarray) -> dict[str, Any] | None:
    """What Huang et al.'s detectors are told of poison; ``None`` if there is none, or of several targets."""
    lines = data.manifest.table.select(['row', 'target_class', 'caption']).to_pylist()
    lines = [line for line in lines if kept[line['row']]]
    targets = {line['target_class'] for line in lines}
    if len(targets) != 1:
        return None
    place = np.cumsum(kept) - 1
    indices = [int(place[line['row']]) for line in lines]
    return {
        'poison_indices': indices,
        'poison_label': targets.pop(),
        'poison_rate': len(indices) / int(kept.sum()),
        'poison_text': {str(index): line['caption'] for index, line in zip(indices, lines, strict=True)},
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    # A value that JSON does not know, such as a model that an attack asks, is there by the name of its class.
    path.write_text(json.dumps(content, indent=1, default=lambda value: type(value).__name__) + '\n')
