#!/usr/bin/env bash
# NumPy 2.4.6 and torch 2.14.1: loader workers started by forkserver each get a copy of a memory-mapped array.
#
# Versions: numpy 2.4.6, torch 2.14.1, Python 3.11, Linux. From Python 3.14 on, forkserver is the default there.
#
# Expected: a data set that reads a np.memmap costs its workers no memory. The file is mapped once and the system shares
# its pages, as it does under fork. A memmap knows its file and offset, so it could be mapped again.
#
# What happens: np.memmap inherits the pickling of np.ndarray. Whatever starts workers by pickle sends the whole content
# to each of them, as an ordinary array: memory grows with the number of workers, and a cache larger than memory, the
# reason to map it, ends the run.
#
# Output seen (an array of 200 MB):
#   fork        private memory of a worker beyond that of an empty data set: 0 MB
#   forkserver  private memory of a worker beyond that of an empty data set: 200 MB
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6

cat > "$folder/main.py" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader, Dataset

MEGABYTES = 200


class Rows(Dataset):
    def __init__(self, array):
        self.array = array

    def __len__(self):
        return 2

    def __getitem__(self, row):
        status = Path('/proc/self/status').read_text()
        return int(status.split('RssAnon:')[1].split()[0]) // 1000  # of this worker, in MB


def private_memory(array, method):
    return max(DataLoader(Rows(array), batch_size=None, num_workers=1, multiprocessing_context=method))


if __name__ == '__main__':
    path = Path(__file__).with_name('array.npy')
    np.save(path, np.ones(MEGABYTES * 1_000_000, np.uint8))
    mapped = np.load(path, mmap_mode='r')
    more = {}
    for method in ('fork', 'forkserver'):
        more[method] = private_memory(mapped, method) - private_memory(mapped[:1].copy(), method)
        print(f'{method:<11} private memory of a worker beyond that of an empty data set: {round(more[method], -1)} MB')
    sys.exit(0 if more['fork'] < 50 and more['forkserver'] > 150 else 1)
PYTHON
"$folder/venv/bin/python" "$folder/main.py"
