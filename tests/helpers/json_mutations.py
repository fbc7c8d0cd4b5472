"""Put values of other types into a JSON file, the same at every call, to try a reader of strangers' files."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

_MAX_CHANGES = 4
_LEFT_OUT = 0.2  # share of the changes that remove a value
_VALUES: tuple[Any, ...] = (  # of which one stands in the place of another
    None, True, 7, -1, 0.5, float('nan'), 1e300, 10**30, '', ' ', '7', 'nan', '9' * 30, '../x', '\0', '\ud800', 'a' * 9,
    [], [None], [[[]]], {}, {'id': 1},
)  # fmt: skip


def mutated_json(content: Any, count: int) -> Iterator[bytes]:
    """Yields copies of a JSON file, in each of which one to four values are others, of any type, or are left out."""
    draw = np.random.default_rng(0)
    for _ in range(count):
        changed = copy.deepcopy(content)
        for _ in range(draw.integers(1, _MAX_CHANGES, endpoint=True)):
            parent, key = _choose_place(changed, draw)
            if draw.random() < _LEFT_OUT:
                del parent[key]
            else:
                parent[key] = copy.deepcopy(_VALUES[draw.integers(len(_VALUES))])
        yield json.dumps(changed).encode()


def _choose_place(content: Any, draw: np.random.Generator) -> tuple[Any, Any]:
    places = [*_places(content)]
    return places[draw.integers(len(places))] if places else ({'': 0}, '')


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield content, key
        yield from _places(content[key])
