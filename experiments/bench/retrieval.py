"""Ranks of retrieval at the size of COCO's test set, and CLIP_benchmark's on the same embeddings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.usage_error import UsageError
from experiments.bench import recalls
from experiments.bench.measure import Result
from experiments.bench.start import THIS_CHECKOUT

PICTURES, CAPTIONS, WIDTH = 5000, 5, 512
MEGABYTE = 1e6
ROUNDING = 1e-6  # of a mean in float32, as CLIP_benchmark takes it


def measure(peer: Path | None = None) -> Iterator[Result]:
    """Ranks captions by pictures and pictures by captions.

    Args:
        peer: Python of an environment with ``clip-benchmark``; ``None`` leaves the comparison out.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, 'embeddings.npz')
        given = recalls.draw(PICTURES, CAPTIONS, WIDTH)
        np.savez(file, image=given.image.numpy(), text=given.text.numpy(), picture=given.picture)
        own = run(sys.executable, 'ours', file)
        what = f'ranks of {PICTURES * CAPTIONS:,} captions and {PICTURES:,} pictures'
        yield Result(f'{what}, of one core', own['seconds'], 's')
        yield Result('most memory meanwhile', own['bytes'] / MEGABYTE, 'MB')
        if peer is None:
            return
        theirs = run(peer, 'clip_benchmark', file)
    yield Result("CLIP_benchmark's R@K over it", theirs['seconds'] / own['seconds'], 'x', 2, higher_is_better=True)
    yield Result("most memory, over CLIP_benchmark's", own['bytes'] / theirs['bytes'], 'x', 1)
    difference = max(abs(own['recalls'][name] - value) for name, value in theirs['recalls'].items())
    yield Result("largest difference of R@1, R@5 and R@10 from CLIP_benchmark's", difference, '', ROUNDING)


def run(python: str | Path, name: str, file: Path) -> dict[str, Any]:
    """What :mod:`experiments.bench.recalls` measures in a process of its own.

    Raises:
        RuntimeError: If it fails.
    """
    environment = {**os.environ, 'PYTHONPATH': str(THIS_CHECKOUT), 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    command = [str(python), recalls.__file__, name, str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f'{" ".join(command)} failed:\n{done.stderr[-2000:]}')
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def check_peer(peer: Path) -> None:
    """Refuses what is no Python with CLIP_benchmark.

    Raises:
        UsageError: If it cannot import it.
    """
    found = 'has it'
    program = f'import clip_benchmark.metrics.zeroshot_retrieval; print({found!r})'
    try:
        answer = subprocess.run([peer, '-c', program], capture_output=True, text=True).stdout
    except OSError:  # no program
        answer = ''
    if found not in answer:
        raise UsageError(f'--clip-benchmark={peer} is not a Python that has clip-benchmark: give the path of one.')
