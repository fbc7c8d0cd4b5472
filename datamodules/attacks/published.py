"""Poison that others have published: CleanCLIP's folders of pictures, and the lists of Huang et al. (2025)."""

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
from datamodules.files.opening import open_file
from datamodules.files.quoting import quote
from datamodules.files.reading import require_path
from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)

SIDE = 224  # pixels a side of the pictures that both poison
_MAX_LIST_BYTES = 1 << 30  # of a train_poison_info.json
_KINDS = {  # kind of a trigger, by a key that only its lists have
    'patch_size': 'badnets',
    'alpha': 'blend',
    'trigger_position': "BLTO's, of a network that is not part of this project",
}
Place = tuple[int, int]  # row and column on a picture of 224 pixels a side


class Listing(NamedTuple):
    """The content of a list of poison.

    Attributes:
        rows: Poisoned rows of the training table, int64.
        captions: New caption by row; other rows keep their own.
        target: Name of the class that the attack wants, or ``None`` if the list does not say.
        trigger: What still has to be put on the pictures, if anything.
        test_trigger: What goes on the pictures that success is measured on, or ``None`` if unknown.
    """

    rows: np.ndarray
    captions: Mapping[int, str]
    target: str | None
    trigger: Trigger | None
    test_trigger: Trigger | None


class Published(Backdoor):
    """Poison that a list names. Only the pictures that success is measured on are drawn at random.

    A listed pair keeps its row. Pairs with an unreadable picture, and pairs that an earlier attack has taken, are
    left out; a warning gives their number.

    Args:
        target: Name of the class that the attack wants; ``null`` for the list's.
        trigger: What goes on listed pictures; ``null`` for the list's trigger.
        test_trigger: What goes on the pictures that success is measured on; ``null`` for the one of the list.
        test_images: Maximum number of images to measure on, ``null`` for all.
        seed: Seed of the choice of these images.
    """

    may_carry_trigger = True

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
        self.count = None  # the list says how many
        self._given = target, trigger, test_trigger or trigger

    @abstractmethod
    def read_listing(self, pool: AttackPool) -> Listing:
        """Reads the list.

        Raises:
            UsageError: If it does not fit the data, or an argument must say what the list leaves open.
        """

    def amount(self, pairs: int) -> int:
        """An upper bound: the list decides."""
        return pairs

    def choose(self, pool: AttackPool, amount: int) -> list[Poison]:
        listed = self.read_listing(pool)
        rows = np.setdiff1d(listed.rows, list(pool.taken['train']))
        if len(rows) < len(listed.rows):
            absent = len(listed.rows) - len(rows)
            log.warning('%d of %d listed poisons are unreadable or taken: left out', absent, len(listed.rows))
        self._settle(listed)
        target = pool.index(self.target)
        captions = zip(rows.tolist(), pool.table.captions(rows), strict=True)
        return [Poison(row, 'train', target, listed.captions.get(row, own), row) for row, own in captions]

    def _settle(self, listed: Listing) -> None:
        """Takes target and triggers from the list where no argument gives them."""
        target, trigger, test_trigger = self._given
        if not (named := target or listed.target):
            raise UsageError('the list does not name a target class: set target.')
        self.target, self.trigger = named, trigger or listed.trigger
        self.test_trigger = test_trigger or listed.test_trigger


# --- CleanCLIP ------------------------------------------------------------------------------------------------------


class CleanCLIPPoison(Published):
    """Pictures poisoned by CleanCLIP's code: the training rows whose file is in its folder of poisoned pictures.

    That code writes ``backdoor_images_<label>_<type>_<location>_<size>_<pairs>_<poisons>[_label_consistent]/`` and
    a CSV of the same name, which :class:`datamodules.csv_pairs.CSVPairs` reads. These pictures carry the trigger and
    their captions are replaced already. For the pictures that success is measured on, the trigger is rebuilt from the
    folder's name: patches of noise, blended noise and waves. The warp cannot be rebuilt, as it is in a file of theirs.

    Args:
        folder: Name of the folder in the image paths; ``null`` finds the one whose name has the form above.
        target: Name of the class that the attack wants; ``null`` for the label in the folder's name.
        test_trigger: What goes on the pictures that success is measured on; ``null`` for the trigger in the folder's
            name.
        test_images: Maximum number of images to measure on, ``null`` for all.
        seed: Seed of the choice of these images, and of their triggers.
    """

    NAME = re.compile(
        r'backdoor_images_(?P<label>.+?)_(?P<type>[^_]+)_(?P<location>four_corners|[^_]+)_(?P<size>[0-9]{1,9}|None)'
        r'_[0-9]+_(?P<poisons>[0-9]{1,9})(?:_label_consistent)?'
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

    def read_listing(self, pool: AttackPool) -> Listing:
        rows, folder = self._find_rows(pool)
        if (parts := self.NAME.fullmatch(folder)) is None:
            return Listing(rows, {}, None, None, None)
        if int(parts['poisons']) != len(rows):
            listed = parts['poisons']
            log.warning('folder %s should have %s poisons, and the data has %d', quote(folder), listed, len(rows))
        trigger = _make_cleanclip_trigger(parts['type'], parts['location'], parts['size'], self.seed)
        return Listing(rows, {}, parts['label'], None, trigger)

    def evaluation(self, name: str, poisons: Sequence[Poison], pool: AttackPool, pixels: Pixels) -> EvaluationSet:
        stored = pixels('train', np.array([poisons[0].source])).shape[-1]
        if self.test_trigger is None:
            raise UsageError(
                f'the folder name of attack {name!r} names no trigger that is known here: set its test_trigger, '
                f'to Unchanged for pictures without any.'
            )
        if self._given[2] is None and stored != SIDE:
            raise UsageError(
                f'the pictures of attack {name!r} were poisoned at {SIDE} pixels and are stored at {stored}: '
                f'set data.cache_size={SIDE}, or its test_trigger to one of that size.'
            )
        return super().evaluation(name, poisons, pool, pixels)

    def _find_rows(self, pool: AttackPool) -> tuple[np.ndarray, str]:
        """Rows of poisoned pictures, and the name of their folder."""
        folder = 'backdoor_images_[^/]*' if self.folder is None else re.escape(self.folder.strip('/'))
        rows = np.flatnonzero(np.asarray(pc.match_substring_regex(pool.table.image, f'(^|/){folder}/[^/]*$')))
        if not len(rows):
            raise UsageError(
                f'no training image is in a folder {self.folder or "backdoor_images_..."}: read the CSV that '
                f"CleanCLIP's code wrote, or set folder to the name in its paths."
            )
        names = sorted({pool.table.image[row].as_py().split('/')[-2] for row in rows.tolist()})
        if len(names) > 1:
            raise UsageError(f'poison is in {len(names)} folders: add an attack for each, with folder one of {names}.')
        return rows, names[0]


def _make_cleanclip_trigger(kind: str, location: str, size: str, seed: int) -> Trigger | None:
    """The trigger of ``--patch_type``, ``--patch_location`` and ``--patch_size``, or ``None`` if unknown here."""
    if kind == 'random' and location in ('random', 'four_corners') and size != 'None':
        position: Any = location
        return Patch(int(size), 'gaussian_wrapped', position=position, seed=seed)
    if location != 'blended':
        return None
    return {'blended': Blend('fresh_noise', 0.2, seed=seed), 'SIG': Waves(60, ratio=0.2)}.get(kind)


# --- Huang et al. ---------------------------------------------------------------------------------------------------


class ListedDots(Placed):
    """The patch of dots of Huang et al. (2025), at the place that is listed for each image.

    Size and places are in pixels of a picture of 224 pixels a side, and are scaled for other sizes.

    Args:
        size: Side of the patch.
        places: Row and column of its top left pixel, by the key of the image.
        otherwise: Row and column for images that are not listed.

    Raises:
        UsageError: If a patch reaches beyond the picture.
    """

    def __init__(self, size: int, places: Mapping[int, Place], otherwise: Place = (0, 0)) -> None:
        super().__init__('top_left', 0, 0)
        self.size, self.places, self.otherwise = size, places, otherwise
        corners = [length for place in (otherwise, *places.values()) for length in place]
        if not (size >= 1 and all(0 <= length <= SIDE - size for length in corners)):  # false for NaN
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
    """Target and caption that a file gives to one poisoned row."""

    target: str | None
    caption: str | None


class PoisonInfo(Published):
    """The poison of a ``train_poison_info.json``, written by Huang et al.'s code or by ``clipward export``.

    The file lists rows, so the data must be the same pairs in the same order. It holds captions, the places of the
    patch of dots, and the ratio of a blend, but not the blended picture: noise stands in for it unless ``trigger``
    says otherwise. A file with several triggers (``trigger_maps``) needs one attack for each, as each is measured
    separately. The file does not distinguish a warp, a filter, and poison without a trigger: set ``trigger`` for
    these. The network of BLTO is not implemented.

    Args:
        file: Path of the file, which is read when the data is set up.
        trigger_type: Which of several triggers: ``badnets``, ``nashville`` or ``wanet``. The warp is drawn anew.
        keep_captions: Leave captions as they are and ignore those of the file, as that code does in its clean-label
            attack.
        target: Name of the class that the attack wants; ``null`` for the file's.
        trigger: What goes on listed pictures; ``null`` for the file's trigger, ``Unchanged`` if they carry it already.
        test_trigger: What goes on the pictures that success is measured on; ``null`` for the training trigger, with
            dots in the middle if their place varies from image to image.
        test_images: Maximum number of images to measure on, ``null`` for all.
        seed: Seed of the choice of these images, and of noise and warp.
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

    def read_listing(self, pool: AttackPool) -> Listing:
        try:
            with open_file(require_path(self.file, 'file'), _MAX_LIST_BYTES) as file:
                info = json.loads(file.read())
            entries = self._read_entries(info, self._read_rows(info, len(pool.table)))
            triggers = (None, None) if self._given[1] else self._make_triggers(info, entries)
        except UsageError:
            raise
        except (OSError, LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
            raise UsageError(f'file={self.file!r} is not a train_poison_info.json, or damaged: {error!r}.') from error
        targets = {entry.target for entry in entries.values()}
        if len(targets) > 1:
            raise UsageError(f'file={self.file!r} gives one trigger {len(targets)} targets: make a file for each.')
        captions = {row: entry.caption for row, entry in entries.items() if entry.caption and not self.keep_captions}
        if empty := sum(entry.caption == '' for entry in entries.values()):
            log.warning(
                '%s: %d of %d listed captions are empty: these pairs keep theirs', self.file, empty, len(entries)
            )
        return Listing(np.array([*entries]), captions, targets.pop(), *triggers)

    def _read_rows(self, info: Mapping[str, Any], pairs: int) -> list[int]:
        """The listed rows, after a check that they can be rows of this data."""
        rows: list[int] = info['poison_indices']
        if not rows or any(type(row) is not int for row in rows) or len(set(rows)) < len(rows):
            raise UsageError(f'file={self.file!r} lists no poisoned row, or one twice: poison_indices must be numbers.')
        rate = info.get('poison_rate')
        listed_pairs = round(len(rows) / rate) if rate else pairs
        if listed_pairs != pairs or min(rows) < 0 or max(rows) >= pairs:
            raise UsageError(
                f'file={self.file!r} lists rows {min(rows):,} to {max(rows):,} of {listed_pairs:,} pairs, and the data '
                f'has {pairs:,}: give it the pairs that the file was made for, all of them in their order.'
            )
        return rows

    def _read_entries(self, info: Mapping[str, Any], rows: Sequence[int]) -> dict[int, Entry]:
        """The entry of each row; if there are several triggers, of each row with ``trigger_type``."""
        if (maps := info.get('trigger_maps')) is not None:
            kinds = sorted({maps[str(row)]['trigger_type'] for row in rows})
            if self.trigger_type not in kinds:
                raise UsageError(f'file={self.file!r} has several triggers: set trigger_type to one of {kinds}.')
            chosen = {row: maps[str(row)] for row in rows if maps[str(row)]['trigger_type'] == self.trigger_type}
            return {
                row: Entry(_read_name(each['target_label']), _read_caption(each['trigger_text']))
                for row, each in chosen.items()
            }
        if self.trigger_type is not None:
            raise UsageError(f'file={self.file!r} has one trigger only: leave trigger_type out.')
        target, texts = _read_name(info.get('poison_label')), info.get('poison_text')
        return {row: Entry(target, texts and _read_caption(texts[str(row)])) for row in rows}

    def _make_triggers(self, info: Mapping[str, Any], entries: Mapping[int, Entry]) -> tuple[Trigger, Trigger]:
        """The trigger for training and the one for measuring success."""
        kind = self.trigger_type or next((kind for key, kind in _KINDS.items() if key in info), 'not told')
        if kind == 'badnets':
            return self._make_dots(info, list(entries))
        if kind == 'blend':
            trigger: Trigger = Blend(ratio=info['alpha'], seed=self.seed)
        elif kind in ('nashville', 'wanet'):
            trigger = PhotoFilter() if kind == 'nashville' else Warp(None, 1.0, seed=self.seed)
        else:
            raise UsageError(
                f'the trigger of file={self.file!r} is {kind}: set trigger, such as PhotoFilter for Nashville, Warp '
                f'for WaNet, Unchanged where the pictures carry it already.'
            )
        return trigger, trigger

    def _make_dots(self, info: Mapping[str, Any], rows: Sequence[int]) -> tuple[Trigger, Trigger]:
        """Dots at the place of each row for training; for measuring, at their common place or else in the middle."""
        if self.trigger_type is None:
            places = {row: _read_place(info['trigger_position'][str(row)]) for row in rows}
        else:
            places = {row: _read_place(info['trigger_maps'][str(row)]['patch_location']) for row in rows}
        size, location = info['patch_size'], info.get('patch_location', 'random')
        middle = (SIDE - size) // 2, (SIDE - size) // 2
        tested = middle if location == 'random' else _read_place(location)
        return ListedDots(size, places), ListedDots(size, {}, tested)


def _read_place(location: Mapping[str, int]) -> Place:
    return location['h'], location['w']


def _read_name(target: object) -> str | None:
    if target is not None and not isinstance(target, str):
        raise TypeError(f'the target {target!r:.80} is not the name of a class')
    return target


def _read_caption(caption: str) -> str:
    return ' '.join(caption.encode('utf-8', 'replace').decode().split())  # UTF-8 cannot encode lone surrogates
