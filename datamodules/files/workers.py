"""Worker processes of loaders that do not outlive the run."""

from __future__ import annotations

import multiprocessing
import os
import threading


def end_with_run(worker: int) -> None:
    """Ends this worker when its run is killed: the ``worker_init_fn`` of every loader.

    A worker of torch 2.14 compares its parent process with the one it was started by. Under ``forkserver``, the default
    of Python 3.14, that is a server that lives on, so workers of a killed run would keep their memory for ever.
    """
    threading.Thread(target=_exit_after_run, daemon=True).start()


def _exit_after_run() -> None:
    run = multiprocessing.parent_process()
    if run is not None:
        run.join()
        os._exit(1)  # from a thread, nothing less ends a process that waits for work
