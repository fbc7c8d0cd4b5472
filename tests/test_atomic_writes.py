"""What the project leaves on disk is whole or absent."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ('lightning_modules', 'datamodules', 'callbacks', 'experiments')
WRITES = re.compile(
    r"\.(write_text|write_bytes|savefig|to_csv)\(|os\.(replace|rename)\(|\bopen\([^)]*'[wx]b?'|\.open\('[wx]b?'"
    r'|(torch|np)\.save\(|write_table\(|json\.dump\(|shutil\.(copy|move)'
)
INTO_TEMPORARY_FOLDERS = {'datamodules/export.py', 'datamodules/files/writers.py'}  # of `fill_atomically`
EXEMPT = {
    *INTO_TEMPORARY_FOLDERS,
    'datamodules/files/atomic.py',
    'datamodules/files/shared_table.py',  # to servers; what is cut off there is not read
    'experiments/bench/views.py',
    'experiments/bench/step.py',
    'experiments/bench/phases.py',
    'experiments/bench/remote_shards.py',
    'experiments/bench/run.py',  # into a folder that it deletes
    'experiments/bench/fit_clock.py',
}


def test_every_file_is_written_under_a_temporary_name() -> None:
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob('*.py')]
    in_place = [
        f'{name}:{number}: {line.strip()}'
        for path in sources
        if (name := path.relative_to(ROOT).as_posix()) not in EXEMPT
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if WRITES.search(line) and 'temporary' not in line and '>>>' not in line
    ]
    assert not in_place, 'write through datamodules/files/atomic.py'
