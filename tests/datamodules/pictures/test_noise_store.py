from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.pictures.noise_store import SIDECAR, NoiseStore, StoreSettings
from datamodules.usage_error import UsageError

SETTINGS = StoreSettings('MEM', 'abc', 4, 8, 'image', 3, 'start', 'clip', 0, noise_start='zero')
UNIT = np.array([0, 0, 1, -1, 2])
ROWS = np.flatnonzero(UNIT >= 0)


def create(folder: Path, length: int = 3, random: bool = False) -> NoiseStore:
    trigger = np.full((3, length), 518)
    settings = replace(SETTINGS, trigger_length=length, noise_start='random' if random else 'zero')
    NoiseStore.create(folder, settings, UNIT, np.ones(len(UNIT)), trigger)
    return NoiseStore.open(folder)


def fill(store: NoiseStore, rows: np.ndarray, value: int) -> None:
    noise = np.full((len(rows), 3, 4, 4), value) + store.unit[rows][:, None, None, None]
    store.write(rows, noise, np.full((len(rows), 3), value))
    store.mark_written(rows)


def run_round(store: NoiseStore, number: int, value: int) -> None:
    store.begin(number)
    fill(store, ROWS, value)
    store.flush()
    store.end()


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def read(store: NoiseStore) -> list[int]:
    """A value of each row's noise, then one of its trigger."""
    return [*store.noise(UNIT[ROWS])[:, 0, 0, 0].tolist(), *store.trigger(ROWS)[:, 0].tolist()]


class TestRounds:
    def test_starts_without_noise(self, tmp_path: Path) -> None:
        store = create(tmp_path / 'store')
        assert read(store) == [0, 0, 0, 0, 518, 518, 518, 518]
        assert store.settings == SETTINGS and store.unit.tolist() == UNIT.tolist() and store.place.tolist() == [1] * 5
        assert store.noise(UNIT[ROWS]).dtype == np.int8

    def test_random_noise_is_within_eps_the_same_for_a_seed_and_in_both_files(self, tmp_path: Path) -> None:
        noise = create(tmp_path / 'one', random=True).noise(np.arange(3))
        assert set(np.unique(noise)) == set(range(-8, 9))
        assert np.array_equal(noise, create(tmp_path / 'two', random=True).noise(np.arange(3)))
        files = [(tmp_path / 'one' / f'noise_{number}.npy').read_bytes() for number in (0, 1)]
        assert files[0] == files[1]

    def test_what_a_round_has_written_is_read_back_at_once_and_the_rest_is_that_of_the_round_before(
        self, tmp_path: Path
    ) -> None:
        store = create(tmp_path / 'store')
        run_round(store, 0, 1)
        store.begin(1)
        fill(store, np.array([0]), 5)  # shares its noise and trigger with row 1
        assert read(store) == [5, 5, 2, 3, 5, 5, 1, 1]

    def test_whoever_opens_it_meanwhile_sees_the_last_whole_round(self, tmp_path: Path) -> None:
        store = create(tmp_path / 'store')
        run_round(store, 0, 1)
        store.begin(1)
        fill(store, ROWS, 5)
        assert read(NoiseStore.open(tmp_path / 'store')) == [1, 1, 2, 3, 1, 1, 1, 1]
        store.end()
        assert read(NoiseStore.open(tmp_path / 'store')) == read(store) == [5, 5, 6, 7, 5, 5, 5, 5]

    def test_a_round_that_leaves_rows_out_does_not_count(self, tmp_path: Path) -> None:
        store = create(tmp_path / 'store')
        store.begin(0)
        fill(store, ROWS[:2], 1)
        store.end()
        assert NoiseStore.open(tmp_path / 'store').rounds == 0

    def test_triggers_of_no_words(self, tmp_path: Path) -> None:
        store = create(tmp_path / 'store', length=0)
        assert store.trigger(ROWS).shape == (4, 0)

    def test_files_are_arrays_of_numpy(self, tmp_path: Path) -> None:
        run_round(create(tmp_path / 'store'), 0, 1)
        noise = np.load(tmp_path / 'store' / 'noise_1.npy')
        assert noise.dtype == np.int8 and noise[:, 0, 0, 0].tolist() == [1, 2, 3]


class TestResume:
    def test_a_killed_round_is_repeated_to_the_same_bytes(self, tmp_path: Path) -> None:
        for name in ('whole', 'killed'):
            run_round(create(tmp_path / name), 0, 1)
        killed = NoiseStore.open(tmp_path / 'killed')
        killed.begin(1)
        fill(killed, ROWS[:2], 9)
        resumed = NoiseStore.open(tmp_path / 'killed')
        assert (resumed.rounds, resumed.begun) == (1, 2)
        for folder in ('whole', 'killed'):
            run_round(NoiseStore.open(tmp_path / folder), 1, 4)
        assert content(tmp_path / 'whole') == content(tmp_path / 'killed')

    def test_a_round_can_be_repeated_until_the_next_begins(self, tmp_path: Path) -> None:
        """The store is closed before the checkpoint is written, and a kill may come between the two."""
        run_round(create(tmp_path / 'store'), 0, 1)
        NoiseStore.open(tmp_path / 'store').check_round(0)
        store = NoiseStore.open(tmp_path / 'store')
        run_round(store, 0, 2)
        store.begin(1)
        with pytest.raises(UsageError, match=r'noise after round 1, from which round 1 cannot start'):
            NoiseStore.open(tmp_path / 'store').check_round(0)

    def test_no_round_is_left_out(self, tmp_path: Path) -> None:
        store = create(tmp_path / 'store')
        with pytest.raises(UsageError, match='after round 0, from which round 2 cannot start'):
            store.begin(1)


class TestMemory:
    def test_what_was_read_and_written_is_not_kept_mapped(self, tmp_path: Path) -> None:
        """Noise of 0.5 million pictures takes 85 GB."""
        store = create(tmp_path / 'store')
        run_round(store, 0, 1)
        read(store)
        maps = Path('/proc/self/maps')
        if maps.exists():  # on Linux
            assert str(tmp_path / 'store' / 'noise') not in maps.read_text()
        assert not any(isinstance(value, np.memmap) for value in vars(store).values())

    def test_is_read_without_the_right_to_write(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run_round(create(tmp_path / 'store'), 0, 1)
        modes: set[str | None] = set()
        load = np.load

        def watch(*args: Any, **kwargs: Any) -> Any:
            modes.add(kwargs.get('mmap_mode'))
            return load(*args, **kwargs)

        monkeypatch.setattr(np, 'load', watch)
        assert read(NoiseStore.open(tmp_path / 'store')) == [1, 1, 2, 3, 1, 1, 1, 1]
        assert modes == {None, 'r'}


class TestBadInput:
    def test_a_missing_store(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=rf'{tmp_path} holds no noise .*clipward fit'):
            NoiseStore.open(tmp_path)

    @pytest.mark.parametrize('name', ['noise_0.npy', 'triggers_1.npy', 'unit.npy', 'place.npy'])
    def test_a_missing_part(self, tmp_path: Path, name: str) -> None:
        create(tmp_path / 'store')
        (tmp_path / 'store' / name).unlink()
        with pytest.raises(UsageError, match='part is missing'):
            NoiseStore.open(tmp_path / 'store')

    def test_a_part_of_which_nothing_was_copied(self, tmp_path: Path) -> None:
        create(tmp_path / 'store')
        (tmp_path / 'store/noise_0.npy').write_bytes(b'')
        with pytest.raises(UsageError, match='part is missing or damaged'):
            NoiseStore.open(tmp_path / 'store')

    @pytest.mark.parametrize('change', [{'version': 99}, {'version': 'x'}, {'rounds': None}, {'other': 1}])
    def test_a_damaged_or_later_sidecar(self, tmp_path: Path, change: dict[str, object]) -> None:
        create(tmp_path / 'store')
        sidecar = tmp_path / 'store' / SIDECAR
        sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | change))
        with pytest.raises(UsageError):
            NoiseStore.open(tmp_path / 'store')

    def test_a_store_of_other_data(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match='holds noise of other pairs, or some have been changed since'):
            create(tmp_path / 'store').check_settings(replace(SETTINGS, fingerprint='def'))

    def test_a_store_that_does_not_tell_of_which_pictures_it_is(self, tmp_path: Path) -> None:
        create(tmp_path / 'store').check_settings(replace(SETTINGS, pictures='def'))

    def test_a_folder_that_exists(self, tmp_path: Path) -> None:
        create(tmp_path / 'store')
        before = content(tmp_path / 'store')
        with pytest.raises(UsageError, match='exists'):
            create(tmp_path / 'store')
        assert content(tmp_path / 'store') == before
