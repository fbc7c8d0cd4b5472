"""Poison that others have made and listed: CleanCLIP's folders of pictures, and the lists of Huang et al. (2025)."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from datamodules.attacks.backdoor import Backdoor
from datamodules.attacks.base import AttackPool, Pixels, Poison
from datamodules.attacks.blended import Blend
from datamodules.attacks.nashville import PhotoFilter
from datamodules.attacks.sinusoid import Waves
from datamodules.attacks.triggers import Patch, Placed, Trigger
from datamodules.attacks.wanet import Warp
from datamodules.evaluation.sets import EvaluationSet
from datamodules.files.reading import existing
from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)

SIDE = 224  # pixels of the pictures that both poison
_KINDS = {  # of a trigger, by what a list of poison has besides captions
    'patch_size': 'badnets',
    'alpha': 'blend',
    'trigger_position': "BLTO's, of a network that is not part of this project",
}
Place = tuple[int, int]  # pixels down and to the right, on a picture of that side


class Listing(NamedTuple):
    """What a list of poison says.

    Attributes:
        rows: Poisoned rows of the training table, int64.
        captions: New caption by row; a row that is not there keeps its own.
        target: Name of the class that the poison is to mean, as far as it is told.
        trigger: What is still to be put on the pictures.
        test_trigger: What belongs on the pictures that success is measured on, ``None`` if that is not known.
    """

    rows: np.ndarray
    captions: Mapping[int, str]
    target: str | None
    trigger: Trigger | None
    test_trigger: Trigger | None


class Published(Backdoor):
    """Poison that a list names, so that nothing is drawn but the pictures that success is measured on.

    A listed pair keeps its row. One whose picture cannot be read, or which an earlier attack has taken, is left out,
    and counted.

    Args:
        target: Name of the class that the poison is to mean; ``null`` for what the list says.
        trigger: What goes on listed pictures; ``null`` for what the list says.
        test_trigger: What goes on the pictures that success is measured on; ``null`` for what goes with the list.
        test_images: Most images to measure on, ``null`` for all.
        seed: Seed of the choice of these images.
    """

    def __init__(
        self,
        target: str | None = None,
        trigger: Trigger | None = None,
        test_trigger: Trigger | None = None,
        test_images: int | None = 1000,
        seed: int = 0,
    ) -> None:
        super().__init__(
            target or '', trigger, test_images, test_trigger, count=0, mode='replace', source='train', seed=seed
        )
        self.count = None  # how many, the list says
        self._given = target, trigger, test_trigger or trigger

    @abstractmethod
    def listing(self, pool: AttackPool) -> Listing:
        """Reads the list.

        Raises:
            UsageError: If it does not fit the data, or leaves open what no argument says.
        """

    def amount(self, pairs: int) -> int:
        """All of them at most."""
        return pairs

    def choose(self, pool: AttackPool, amount: int) -> list[Poison]:
        listed = self.listing(pool)
        rows = np.setdiff1d(listed.rows, list(pool.taken['train']))
        if len(rows) < len(listed.rows):
            absent = len(listed.rows) - len(rows)
            log.warning('%d of %d listed poisons are unreadable or taken: left out', absent, len(listed.rows))
        self._settle(listed)
        target = pool.index(self.target)
        captions = zip(rows.tolist(), pool.table.captions(rows), strict=True)
        return [Poison(row, 'train', target, listed.captions.get(row, own), row) for row, own in captions]

    def _settle(self, listed: Listing) -> None:
        """Takes from the list what no argument has said."""
        target, trigger, test_trigger = self._given
        if not (named := target or listed.target):
            raise UsageError('the list does not say which class the poison is to mean: set target.')
        self.target, self.trigger = named, trigger or listed.trigger
        self.test_trigger = test_trigger or listed.test_trigger


# --- CleanCLIP ------------------------------------------------------------------------------------------------------


class CleanCLIPPoison(Published):
    """Pictures that CleanCLIP's code has poisoned: training rows whose file is in its folder of such pictures.

    That code writes ``backdoor_images_<label>_<type>_<location>_<size>_<pairs>_<poisons>[_label_consistent]/`` and
    a CSV of the same name, which :class:`datamodules.csv_pairs.CSVPairs` reads. The trigger is on the pictures
    already, and captions are replaced. On pictures that success is measured on it is made anew from the folder's
    name: patches of noise, blended noise and waves. Not so the warp, which is in a file of theirs.

    Args:
        folder: Name of the folder in the paths of images; ``null`` for the one that is called like that.
        target: Name of the class that the poison is to mean; ``null`` for the label in the folder's name.
        test_trigger: What goes on the pictures that success is measured on; ``null`` for that of the folder's name.
        test_images: Most images to measure on, ``null`` for all.
        seed: Seed of the choice of these images, and of their triggers.
    """

    NAME = re.compile(
        r'backdoor_images_(?P<label>.+?)_(?P<type>[^_]+)_(?P<location>four_corners|[^_]+)_(?P<size>\d+|None)'
        r'_\d+_(?P<poisons>\d+)(?:_label_consistent)?'
    )

    def __init__(
        self,
        folder: str | None = None,
        target: str | None = None,
        test_trigger: Trigger | None = None,
        test_images: int | None = 1000,
        seed: int = 0,
    ) -> None:
        super().__init__(target, None, test_trigger, test_images, seed)
        self.folder = folder

    def listing(self, pool: AttackPool) -> Listing:
        rows, folder = self._found(pool)
        if (said := self.NAME.fullmatch(folder)) is None:
            return Listing(rows, {}, None, None, None)
        if int(said['poisons']) != len(rows):
            log.warning('folder %s is of %s poisons, and the data has %d of them', folder, said['poisons'], len(rows))
        trigger = _cleanclip_trigger(said['type'], said['location'], said['size'], self.seed)
        return Listing(rows, {}, said['label'], None, trigger)

    def evaluation(self, name: str, poisons: Sequence[Poison], pool: AttackPool, pixels: Pixels) -> EvaluationSet:
        stored = pixels('train', np.array([poisons[0].source])).shape[-1]
        if self.test_trigger is None:
            raise UsageError(
                f'the folder of attack {name!r} does not tell a trigger that is known here: set its test_trigger, '
                f'to Unchanged for pictures without any.'
            )
        if self._given[2] is None and stored != SIDE:
            raise UsageError(
                f'the pictures of attack {name!r} were poisoned at {SIDE} pixels and are stored at {stored}: '
                f'set data.cache_size={SIDE}, or its test_trigger to one of that size.'
            )
        return super().evaluation(name, poisons, pool, pixels)

    def _found(self, pool: AttackPool) -> tuple[np.ndarray, str]:
        """Rows of poisoned pictures, and the name of their folder."""
        folder = 'backdoor_images_[^/]*' if self.folder is None else re.escape(self.folder.strip('/'))
        rows = np.flatnonzero(np.asarray(pc.match_substring_regex(pool.table.image, f'(^|/){folder}/[^/]*$')))
        if not len(rows):
            raise UsageError(
                f'no training image is in a folder {self.folder or "backdoor_images_..."}: read the CSV that '
                f"CleanCLIP's code has written, or set folder to the one in its paths."
            )
        names = sorted({pool.table.image[row].as_py().split('/')[-2] for row in rows.tolist()})
        if len(names) > 1:
            raise UsageError(f'poison is in {len(names)} folders: list an attack for each, with folder={names}.')
        return rows, names[0]


def _cleanclip_trigger(kind: str, location: str, size: str, seed: int) -> Trigger | None:
    """The trigger of ``--patch_type``, ``--patch_location`` and ``--patch_size``, ``None`` if it is not known here."""
    if kind == 'random' and location in ('random', 'four_corners') and size != 'None':
        position: Any = location
        return Patch(int(size), 'gaussian_wrapped', position=position, seed=seed)
    if location != 'blended':
        return None
    return {'blended': Blend('fresh_noise', 0.2, seed=seed), 'SIG': Waves(60, ratio=0.2)}.get(kind)


# --- Huang et al. ---------------------------------------------------------------------------------------------------


class ListedDots(Placed):
    """The patch of dots of Huang et al. (2025), at the place that is listed for each image.

    Sizes and places are in pixels of a picture of 224 a side. On others they are scaled.

    Args:
        size: Side of the patch.
        places: Row and column of its top left pixel by the key of the image.
        otherwise: The same for images that are not listed.

    Raises:
        UsageError: If a patch does not lie within the picture.
    """

    def __init__(self, size: int, places: Mapping[int, Place], otherwise: Place = (0, 0)) -> None:
        super().__init__('top_left', 0, 0)
        self.size, self.places, self.otherwise = size, places, otherwise
        corners = [length for place in (otherwise, *places.values()) for length in place]
        if size < 1 or min(corners) < 0 or max(corners) + size > SIDE:
            raise UsageError(
                f'a patch must lie within {SIDE} x {SIDE} pixels, got a size of {size} and places from {min(corners)} '
                f'to {max(corners)}.'
            )

    def square(self, images: np.ndarray, keys: np.ndarray | None) -> np.ndarray:
        return Patch(max(1, round(self.size * images.shape[3] / SIDE)), 'dots').square(images, keys)

    def corners(self, shape: Sequence[int], size: int, keys: np.ndarray | None) -> np.ndarray:
        names = [-1] * shape[0] if keys is None else keys.tolist()
        places = np.array([self.places.get(name, self.otherwise) for name in names]).reshape(1, -1, 2)
        return np.minimum(np.rint(places * (shape[3] / SIDE)).astype(np.int64), shape[3] - size)

    def parameters(self) -> dict[str, int | float | str]:
        listed = json.dumps([sorted(self.places.items()), self.otherwise])
        return {'size': self.size, 'pattern': 'dots', 'places': hashlib.sha256(listed.encode()).hexdigest()[:16]}


class Entry(NamedTuple):
    """What a file says of one poisoned row."""

    target: str | None
    caption: str | None


class PoisonInfo(Published):
    """The poison of a ``train_poison_info.json``, by Huang et al.'s code or by ``clipward export``.

    The file lists rows, so the data must be the same pairs in the same order. It has captions, places of the patch
    of dots, and the ratio of a blend, but no picture for it, which is noise of our own unless ``trigger`` names one.
    Several triggers (``trigger_maps``) are an attack each, as each is measured apart here. It does not tell a warp
    from a filter, or from poison that needs no trigger: there ``trigger`` has to. The network of BLTO is not here.

    Args:
        file: The file. It is read when the data is set up.
        trigger_type: Which one of several triggers: ``badnets``, ``nashville`` or ``wanet``. The warp is our own.
        keep_captions: Leave captions as they are, as that code does in its clean-label attack, in spite of the file.
        target: Name of the class that the poison is to mean; ``null`` for the file's.
        trigger: What goes on listed pictures; ``null`` for the file's, ``Unchanged`` where they carry it already.
        test_trigger: What goes on the pictures that success is measured on; ``null`` for the same, where dots that
            are at another place on each image are in the middle.
        test_images: Most images to measure on, ``null`` for all.
        seed: Seed of the choice of these images, and of our own triggers.
    """

    def __init__(
        self,
        file: str,
        trigger_type: str | None = None,
        keep_captions: bool = False,
        target: str | None = None,
        trigger: Trigger | None = None,
        test_trigger: Trigger | None = None,
        test_images: int | None = 1000,
        seed: int = 0,
    ) -> None:
        super().__init__(target, trigger, test_trigger, test_images, seed)
        self.file, self.trigger_type, self.keep_captions = file, trigger_type, keep_captions

    def listing(self, pool: AttackPool) -> Listing:
        content = existing(self.file, 'file').read_bytes()
        try:
            said = json.loads(content)
            entries = self._entries(said, self._rows(said, len(pool.table)))
            triggers = (None, None) if self._given[1] else self._triggers(said, entries)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f'file={self.file!r} is no train_poison_info.json, or damaged: {error!r}.') from error
        targets = {entry.target for entry in entries.values()}
        if len(targets) > 1:
            raise UsageError(f'file={self.file!r} gives one trigger {len(targets)} targets, which is not supported.')
        captions = {row: entry.caption for row, entry in entries.items() if entry.caption and not self.keep_captions}
        return Listing(np.array([*entries]), captions, targets.pop(), *triggers)

    def _rows(self, said: Mapping[str, Any], pairs: int) -> list[int]:
        """Rows that are listed, if they can be rows of this data."""
        rows: list[int] = said['poison_indices']
        if not rows or any(type(row) is not int for row in rows) or len(set(rows)) < len(rows):
            raise UsageError(f'file={self.file!r} lists no poisoned row, or one twice: poison_indices must be numbers.')
        rate = said.get('poison_rate')
        of = round(len(rows) / rate) if rate else pairs
        if of != pairs or min(rows) < 0 or max(rows) >= pairs:
            raise UsageError(
                f'file={self.file!r} lists rows {min(rows):,} to {max(rows):,} of {of:,} pairs, and the data has '
                f'{pairs:,}: give it the pairs that the file was made for, all of them in their order.'
            )
        return rows

    def _entries(self, said: Mapping[str, Any], rows: Sequence[int]) -> dict[int, Entry]:
        """What is said of each row, or of each row with one of several triggers."""
        if (maps := said.get('trigger_maps')) is not None:
            kinds = sorted({maps[str(row)]['trigger_type'] for row in rows})
            if self.trigger_type not in kinds:
                raise UsageError(f'file={self.file!r} has several triggers: set trigger_type to one of {kinds}.')
            own = {row: maps[str(row)] for row in rows if maps[str(row)]['trigger_type'] == self.trigger_type}
            return {row: Entry(its['target_label'], _cleaned(its['trigger_text'])) for row, its in own.items()}
        if self.trigger_type is not None:
            raise UsageError(f'file={self.file!r} has one trigger only: leave trigger_type out.')
        target, texts = said.get('poison_label'), said.get('poison_text')
        return {row: Entry(target, texts and _cleaned(texts[str(row)])) for row in rows}

    def _triggers(self, said: Mapping[str, Any], entries: Mapping[int, Entry]) -> tuple[Trigger, Trigger]:
        """The trigger in training, and when success is measured."""
        kind = self.trigger_type or next((kind for key, kind in _KINDS.items() if key in said), 'not told')
        if kind == 'badnets':
            return self._dots(said, list(entries))
        if kind == 'blend':
            trigger: Trigger = Blend(ratio=said['alpha'], seed=self.seed)
        elif kind in ('nashville', 'wanet'):
            trigger = PhotoFilter() if kind == 'nashville' else Warp(None, 1.0, seed=self.seed)
        else:
            raise UsageError(
                f'the trigger of file={self.file!r} is {kind}: set trigger, such as PhotoFilter for Nashville, Warp '
                f'for WaNet, Unchanged where the pictures carry it already.'
            )
        return trigger, trigger

    def _dots(self, said: Mapping[str, Any], rows: Sequence[int]) -> tuple[Trigger, Trigger]:
        """Dots at the place of each row, and at the one place that all have, or else in the middle."""
        if self.trigger_type is None:
            places = {row: _place(said['trigger_position'][str(row)]) for row in rows}
        else:
            places = {row: _place(said['trigger_maps'][str(row)]['patch_location']) for row in rows}
        size, everywhere = said['patch_size'], said.get('patch_location', 'random')
        middle = (SIDE - size) // 2, (SIDE - size) // 2
        tested = middle if everywhere == 'random' else _place(everywhere)
        return ListedDots(size, places), ListedDots(size, {}, tested)


def _place(written: Mapping[str, int]) -> Place:
    return written['h'], written['w']


def _cleaned(caption: str) -> str:
    return ' '.join(caption.split())
