from __future__ import annotations

import mmap
import time
from pathlib import Path

import pytest

from experiments.bench.measure import Memory, Result, anonymous_memory, best_of, resident_memory

MEGABYTES = 1_000_000


class TestResult:
    @pytest.mark.parametrize(
        ('value', 'target', 'higher_is_better', 'verdict'),
        [(1.0, None, False, ''), (1.0, 1.05, False, 'pass'), (1.1, 1.05, False, 'short'), (6.0, 5.0, True, 'pass'),
         (4.0, 5.0, True, 'short')],
    )  # fmt: skip
    def test_is_compared_with_its_target(
        self, value: float, target: float | None, higher_is_better: bool, verdict: str
    ) -> None:
        assert Result('a', value, target=target, higher_is_better=higher_is_better).verdict == verdict

    def test_cells_show_value_unit_and_bound(self) -> None:
        assert Result('a', 1234.5, 'MB', 300).cells() == ('a', '1234 MB', 'at most 300', 'short')
        assert Result('b', 0.01234, '').cells() == ('b', '0.0123', '', '')


def test_calls_take_turns_and_the_shortest_time_counts() -> None:
    order: list[str] = []

    def busy(name: str, seconds: float) -> None:
        order.append(name)
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    times = best_of({'short': lambda: busy('short', 0.002), 'long': lambda: busy('long', 0.02)}, repeats=2)
    assert order == ['short', 'long'] * 3
    assert 0.002 <= times['short'] < times['long']


def resident(size: int) -> mmap.mmap:
    """Memory fresh from the system; malloc may return memory that this process already had."""
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for start in range(0, size, mmap.PAGESIZE):
        block[start] = 1
    return block


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='anonymous memory is known on Linux only')
def test_memory_is_measured_at_its_peak_and_at_the_end() -> None:
    before = anonymous_memory()
    with Memory(before) as memory:
        block = resident(64 * MEGABYTES)
        time.sleep(0.05)
        block.close()
        kept = resident(32 * MEGABYTES)
    assert memory.peak > 60 * MEGABYTES and memory.peak > memory.kept > 28 * MEGABYTES
    kept.close()


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='resident memory is known on Linux only')
def test_pages_mapped_from_a_file_are_resident_and_not_anonymous(tmp_path: Path) -> None:
    (tmp_path / 'file').write_bytes(bytes(32 * MEGABYTES))
    with (tmp_path / 'file').open('rb') as file, Memory() as anonymous, Memory(read=resident_memory) as all_of_it:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        assert sum(mapped[start] for start in range(0, len(mapped), mmap.PAGESIZE)) == 0
        time.sleep(0.05)
    mapped.close()
    assert all_of_it.peak > 28 * MEGABYTES > anonymous.peak
