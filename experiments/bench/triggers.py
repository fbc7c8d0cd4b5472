"""Time of each trigger on stored pictures relative to decoding and resizing the photos they come from."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from datamodules.attacks import Blend, Patch, PhotoFilter, StripedSheet, Trigger, Warp, Watermark, Waves
from datamodules.pictures.cache import DecodedPictures, read_pictures
from experiments.bench.measure import Result, best_of
from experiments.bench.views import photos

PICTURES, SIZE = 8, 224
REPEATS = 7
TRIGGERS: dict[str, tuple[Trigger, float | None]] = {  # with the largest allowed fraction of the decoding time
    'patch': (Patch(), 1 / 10),
    'patch at a random place': (Patch(position='random'), 1 / 10),
    'blend': (Blend(), 1 / 10),
    'sinusoid': (Waves(), 1 / 10),
    'warp': (Warp(), 1 / 3),
    'warp with a control point at each pixel': (Warp(None, 1.0), 1 / 3),
    'blend of fresh noise': (Blend('fresh_noise'), None),
    'warp with noise': (Warp(noise=True), None),
    'stripes': (StripedSheet(), None),
    'words': (Watermark(), None),
    'photo filter': (PhotoFilter(), None),
}


def measure() -> Iterator[Result]:
    """Compares each trigger with making a picture of 224 pixels from a JPEG of 640 x 480."""
    with tempfile.TemporaryDirectory() as folder:
        table, _ = photos(Path(folder), PICTURES)
        pictures, rows = DecodedPictures(table, SIZE), np.arange(PICTURES)
        stored = read_pictures(pictures, rows)
        calls: dict[str, Callable[[], object]] = {'decoding': partial(read_pictures, pictures, rows)}
        calls |= {name: partial(trigger, stored, rows) for name, (trigger, _) in TRIGGERS.items()}
        times = best_of(calls, REPEATS)
    for name, (_, target) in TRIGGERS.items():
        yield Result(f'{name}, over decoding and resizing', times[name] / times['decoding'], target=target)
    yield Result('decoding and resizing a picture', 1000 * times['decoding'] / PICTURES, 'ms')
