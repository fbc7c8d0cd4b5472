"""Program that runs a command and writes down what its training loop took. It stands alone, to run in any checkout."""

from __future__ import annotations

import json
import os
import runpy
import sys
import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch.loops.fit_loop import _FitLoop


def timed(train: Callable[[Any], None], path: str) -> Callable[[Any], None]:
    """A training loop that writes its CPU seconds, its beginning and its end into a JSON file."""

    def call(loop: Any) -> None:
        began, before = time.monotonic(), time.process_time()
        train(loop)
        cpu = time.process_time() - before
        with open(path, 'w') as file:
            json.dump({'cpu': cpu, 'began': began, 'ended': time.monotonic()}, file)

    return call


if __name__ == '__main__':
    sys.path[0] = os.getcwd()  # that of the checkout, as `python -m` would have it
    _FitLoop.run = timed(_FitLoop.run, sys.argv.pop(1))  # type: ignore[method-assign, assignment]
    runpy.run_module('experiments.cli', run_name='__main__', alter_sys=True)
