"""Worker processes of loaders: they share the caches of a run and do not outlive it."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from typing import Any


def worker_options(count: int) -> dict[str, Any]:
    """Arguments of a ``DataLoader`` about its workers.

    On Linux they are forked, so that they share what is mapped from a file. ``forkserver``, the default of Python 3.14,
    would send each of them a copy of the whole cache: a NumPy memory map is pickled as an array.

    Args:
        count: Number of workers.
    """
    method = 'fork' if count and sys.platform == 'linux' else None
    return {'num_workers': count, 'worker_init_fn': end_with_run, 'multiprocessing_context': method}


def end_with_run(worker: int) -> None:
    """Ends this worker when its run is killed, whatever started it.

    A worker of torch 2.14 compares its parent process with the one it was started by. Under ``forkserver`` that is a
    server that lives on, so workers of a killed run would keep their memory for ever.
    """
    threading.Thread(target=_exit_after_run, daemon=True).start()


def _exit_after_run() -> None:
    run = multiprocessing.parent_process()
    if run is not None:
        run.join()
        os._exit(1)  # from a thread, nothing less ends a process that waits for work
