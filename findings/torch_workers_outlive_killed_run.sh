#!/usr/bin/env bash
# torch 2.14.1: loader workers started by forkserver live on when their process is killed.
#
# Versions: torch 2.14.1, numpy 2.4.6, Python 3.11, Linux. From Python 3.14 on, forkserver is the default there.
#
# Expected: when a training process is killed (out of memory, a scheduler), the workers of its DataLoader notice within
# seconds and end, as they do under fork: each worker polls its parent for this purpose.
#
# What happens: a worker compares os.getppid() with the value at its own start. Under forkserver the parent is the
# server, not the process that reads from the loader, and the server stays as long as its children do. So the check
# never fails: half a minute later all workers are still there, with all their memory.
#
# Output seen:
#   fork        2 workers at the kill, 0 after 30 s
#   forkserver  2 workers at the kill, 2 after 30 s
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6

cat > "$folder/main.py" <<'PYTHON'
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

from torch.utils.data import DataLoader


def load(method):
    multiprocessing.set_start_method(method)
    batches = iter(DataLoader(range(1000), batch_size=2, num_workers=2))
    next(batches)
    print(json.dumps([worker.pid for worker in batches._workers]), flush=True)
    time.sleep(600)


def is_running(process):
    with suppress(FileNotFoundError), open(f'/proc/{process}/stat') as file:
        return file.read().rpartition(')')[2].split()[0] != 'Z'
    return False


def count_survivors(method):
    """Workers at the kill of their process, and half a minute later."""
    run = subprocess.Popen([sys.executable, __file__, method], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    workers = json.loads(run.stdout.readline())
    run.kill()
    run.wait()
    time.sleep(30)
    survivors = [worker for worker in workers if is_running(worker)]
    for worker in survivors:
        os.kill(worker, signal.SIGKILL)
    return len(workers), len(survivors)


if __name__ == '__main__':
    if sys.argv[1:]:
        load(sys.argv[1])
    survivors = {}
    for method in ('fork', 'forkserver'):
        workers, survivors[method] = count_survivors(method)
        print(f'{method:<11} {workers} workers at the kill, {survivors[method]} after 30 s')
    sys.exit(0 if survivors == {'fork': 0, 'forkserver': 2} else 1)
PYTHON
"$folder/venv/bin/python" "$folder/main.py"
