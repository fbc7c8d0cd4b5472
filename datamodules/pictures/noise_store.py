"""Noise and trigger words of a data set on disk, in memory-mapped files that a kill leaves whole.

Every file of noise and triggers exists twice. Round r reads the files of number r % 2 and writes the others, so that a
round that is killed is repeated from what it started with.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from datamodules.files.atomic import fill_atomically, reserve_space, write_text
from datamodules.usage_error import UsageError

VERSION = 1
SIDECAR = 'store.json'
_UNITS_AT_ONCE = 1024
_CHANGED_DATA = {
    'fingerprint': 'noise of other pairs, or some have been changed since',
    'pictures': 'noise of other pictures, or some have been changed since',
}
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class StoreSettings:
    """What noise and triggers were made for.

    Attributes:
        method: Name of the class that made them.
        fingerprint: Fingerprint of the pairs, see :class:`datamodules.rows.partition.Partition`.
        size: Side of a picture in pixels.
        eps: Largest noise in levels of 255.
        granularity: What shares one noise and one trigger: ``image``, ``row`` or ``class``.
        trigger_length: Words of a trigger, each one token.
        trigger_place: Where in a caption they are: ``start``, ``end`` or ``random``.
        tokenizer: Identity of the tokenizer, see :func:`datamodules.text.token_cache.identify_tokenizer`.
        seed: Seed of the run.
        pictures: Digest of the clean pictures; empty in stores that do not tell, as the next two.
        trigger_start: Words before the first round: ``the``, ``a`` or ``random``.
        noise_start: Noise before the first round: ``zero``, or ``random``, uniform in the whole levels up to eps.
    """

    method: str
    fingerprint: str
    size: int
    eps: int
    granularity: str
    trigger_length: int
    trigger_place: str
    tokenizer: str
    seed: int
    pictures: str = ''
    trigger_start: str = ''
    noise_start: str = ''


class NoiseStore:
    """Noise and triggers by unit. Use :meth:`create` or :meth:`open`.

    Attributes:
        folder: Its folder.
        settings: What it was made for.
        unit: The noise and trigger that each row shares, int32 (R,); -1 for rows that are left out, which stay clean.
        place: Position of each row's trigger among the tokens of its caption, int32 (R,).
        rounds: Number of rounds that are whole.
        begun: Number of rounds that were begun.
    """

    def __init__(self, folder: Path, settings: StoreSettings, rounds: int, begun: int) -> None:
        self.folder, self.settings, self.rounds, self.begun = folder, settings, rounds, begun
        self.unit, self.place = (np.load(folder / f'{name}.npy') for name in ('unit', 'place'))
        self._is_written = np.zeros(len(self.unit), bool)  # rows, in the present round
        self._is_unit_written = np.zeros(int(self.unit.max(initial=-1)) + 1, bool)
        units = len(self._is_unit_written)
        for number in (0, 1):
            _check_shape(self._map('noise', number), (units, 3, settings.size, settings.size))
            _check_shape(self._map('triggers', number), (units, settings.trigger_length))

    # --- making and opening -----------------------------------------------------------------------------------------

    @classmethod
    def create(cls, folder: Path, settings: StoreSettings, unit: Array, place: Array, trigger: Array) -> None:
        """Writes a store with the noise and triggers before the first round.

        Args:
            folder: Its folder, which must not hold anything.
            settings: What it is for.
            unit: The noise and trigger that each row shares, (R,); -1 for rows that are left out.
            place: Position of each row's trigger, (R,).
            trigger: Tokens of each unit's trigger, (U, n).

        Raises:
            UsageError: If the folder holds something, or the disk has too little space.
        """
        check_unused(folder)
        shape = int(unit.max(initial=-1)) + 1, 3, settings.size, settings.size
        arrays = {'unit': unit, 'place': place, 'triggers_0': trigger, 'triggers_1': trigger}
        with fill_atomically(folder) as temporary:
            for name, array in arrays.items():
                _write(temporary, folder / f'{name}.npy', array.astype(np.int32))
            for name in ('noise_0.npy', 'noise_1.npy'):
                noise = _allocate(temporary / name, folder / name, shape, np.int8)
                if settings.noise_start == 'random':
                    _fill_randomly(noise, settings)
            _write_sidecar(temporary / SIDECAR, settings, rounds=0, begun=0)

    @classmethod
    def open(cls, folder: Path) -> NoiseStore:
        """Opens a store.

        Raises:
            UsageError: If there is none, or a part of it is missing, or a later release wrote it.
        """
        try:
            sidecar = json.loads((folder / SIDECAR).read_text('utf-8'))
            version, rounds, begun = (int(sidecar.pop(name)) for name in ('version', 'rounds', 'begun'))
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise UsageError(
                f'{folder} holds no noise ({SIDECAR} is missing or damaged): make it with clipward fit and a model '
                f'such as MEM, or name the folder that model.store of such a run was.'
            ) from error
        if version > VERSION:
            raise UsageError(
                f'{folder} holds version {version} of a store of noise, this release reads up to {VERSION}: read it '
                f'with the release that wrote it.'
            )
        try:
            return cls(folder, StoreSettings(**sidecar), rounds, begun)
        except (OSError, EOFError, ValueError, TypeError) as error:
            raise UsageError(
                f'{folder} holds noise of which a part is missing or damaged: make it anew with clipward fit.'
            ) from error

    def check_settings(self, expected: StoreSettings) -> None:
        """Refuses a store that was made for something else.

        Raises:
            UsageError: For the first setting that differs.
        """
        for name, value in asdict(expected).items():
            if (own := getattr(self.settings, name)) not in (value, ''):
                fault = f'noise of {name}={own}, not {value}'
                raise UsageError(
                    f'{self.folder} holds {_CHANGED_DATA.get(name, fault)}: go on with the data and settings that it '
                    f'was made for, or make other noise in another model.store.'
                )

    def check_rows(self, unit: Array, place: Array) -> None:
        """Refuses a store whose rows share other noise, or have their triggers elsewhere.

        Raises:
            UsageError: If it is one.
        """
        if not (np.array_equal(self.unit, unit) and np.array_equal(self.place, place)):
            raise UsageError(
                f'{self.folder} holds noise of other pairs: name the store of this run with model.store, or go on with '
                f'the pictures and data.filters that it was made for.'
            )

    def check_whole(self, rounds: int) -> None:
        """Refuses a store of a run that has not ended.

        Args:
            rounds: Rounds of the run.

        Raises:
            UsageError: If it is one.
        """
        if self.rounds < max(1, rounds):
            raise UsageError(
                f'{self.folder} holds noise after {self.rounds} of {max(1, rounds)} rounds: let clipward fit go on '
                f'with --ckpt_path=last until it ends, or lower trainer.max_epochs.'
            )

    # --- rounds -----------------------------------------------------------------------------------------------------

    def check_round(self, number: int) -> None:
        """Refuses a round whose noise to start from is not there any more, or not yet.

        Raises:
            UsageError: If it is not.
        """
        if number > self.rounds or self.begun > number + 1:
            raise UsageError(
                f'{self.folder} holds noise after round {self.rounds}, from which round {number + 1} cannot start: '
                f'resume from the newest checkpoint of its run, or start anew with another model.store.'
            )

    def begin(self, number: int, writes_sidecar: bool = True) -> None:
        """Begins a round, counted from 0: reads go to what the round before wrote, until a row is written."""
        self.check_round(number)
        self._restart(rounds=number, begun=number + 1, writes_sidecar=writes_sidecar)

    def end(self, writes_sidecar: bool = True) -> None:
        """Ends a round: what it wrote is whole now, unless it was stopped before every row was written.

        To be called when all processes have called :meth:`flush`.
        """
        if self._is_written[self.unit >= 0].all():
            self._restart(rounds=self.begun, begun=self.begun, writes_sidecar=writes_sidecar)

    def flush(self) -> None:
        """Sends what this process wrote to the disk."""
        for name in ('noise', 'triggers'):
            self._map(name, self.begun % 2, 'r+').flush()

    def mark_written(self, rows: Array) -> None:
        """Says that some process has written these rows in this round."""
        self._is_written[rows] = True
        self._is_unit_written[self.unit[rows]] = True

    # --- noise and triggers -----------------------------------------------------------------------------------------

    def noise(self, units: Array) -> Array:
        """The newest noise of some units, int8 (B, 3, H, W)."""
        return self._newest('noise', self._is_unit_written, units)

    def trigger(self, rows: Array) -> Array:
        """The newest triggers of some rows that are not left out, int32 (B, n)."""
        return self._newest('triggers', self._is_unit_written, self.unit[rows])

    def write(self, rows: Array, noise: Array, trigger: Array) -> None:
        """Writes what a round found for the units of some rows: noise in levels (B, 3, H, W) and triggers (B, n)."""
        target = self.begun % 2
        self._map('noise', target, 'r+')[self.unit[rows]] = noise
        self._map('triggers', target, 'r+')[self.unit[rows]] = trigger

    def _newest(self, name: str, is_written: Array, numbers: Array) -> Array:
        """Takes what was written in this round from its file, and the rest from that of the round before."""
        old = self.rounds % 2
        newest: Array = self._map(name, old)[numbers]
        if (written := is_written[numbers]).any():
            newest[written] = self._map(name, 1 - old)[numbers[written]]
        return newest

    def _map(self, name: str, number: int, mode: Literal['r', 'r+'] = 'r') -> np.memmap[Any, Any]:
        """Maps a file for as long as the result lives: what stays mapped would fill the memory of the process."""
        return _map(self.folder / f'{name}_{number}.npy', mode)

    def _restart(self, rounds: int, begun: int, writes_sidecar: bool) -> None:
        self._is_written[:] = self._is_unit_written[:] = False
        self.rounds, self.begun = rounds, begun
        if writes_sidecar:
            _write_sidecar(self.folder / SIDECAR, self.settings, rounds, begun)


def check_unused(folder: Path) -> None:
    """Refuses a folder that holds something.

    Raises:
        UsageError: If it does.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f'model.store={str(folder)!r} exists: name another folder, or resume the run that it is of with ckpt_path.'
        )


def _check_shape(array: Array, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f'{array.shape} instead of {shape}')


def _write(temporary: Path, path: Path, content: Array) -> None:
    _allocate(temporary / path.name, path, content.shape, content.dtype)[:] = content


def _allocate(temporary: Path, path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """Makes a file of an array of zeros, reserves its space on disk, and maps it."""
    header = io.BytesIO()
    fields = {'descr': np.lib.format.dtype_to_descr(np.dtype(dtype)), 'fortran_order': False, 'shape': shape}
    np.lib.format.write_array_header_1_0(header, fields)
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    reserve_space(temporary, len(header.getvalue()) + size, path)
    with temporary.open('r+b') as file:
        file.write(header.getvalue())
    return _map(temporary, 'r+')


def _map(path: Path, mode: Literal['r', 'r+']) -> np.memmap[Any, Any]:
    array: np.memmap[Any, Any] = np.load(path, mmap_mode=mode)
    return array


def _fill_randomly(noise: Array, settings: StoreSettings) -> None:
    for start in range(0, len(noise), _UNITS_AT_ONCE):
        part = noise[start : start + _UNITS_AT_ONCE]
        draw = np.random.default_rng([settings.seed, start])
        part[:] = draw.integers(-settings.eps, settings.eps, part.shape, np.int8, endpoint=True)


def _write_sidecar(path: Path, settings: StoreSettings, rounds: int, begun: int) -> None:
    content = {'version': VERSION, **asdict(settings), 'rounds': rounds, 'begun': begun}
    write_text(path, json.dumps(content, indent=1) + '\n')
