"""R@K of given embeddings, by this project or by CLIP_benchmark: ``python recalls.py ours embeddings.npz``.

A process of its own for each, since CLIP_benchmark needs other versions of what both use. Prints JSON: ``seconds`` of
one core, ``bytes`` that were needed most beside the embeddings, and ``recalls`` by direction and K.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from experiments.bench.measure import Memory, seconds

NEAREST = [1, 5, 10]
BATCH = 64  # that CLIP_benchmark reads by default, and ranks at a time


class Given(NamedTuple):
    """Unit-norm embeddings.

    Attributes:
        image: Of the pictures, (P, D).
        text: Of the captions, (N, D).
        picture: Number of the picture of each caption, ascending, (N,).
    """

    image: Tensor
    text: Tensor
    picture: np.ndarray


def ours(given: Given) -> dict[str, float]:
    """By :mod:`callbacks.retrieval_ranks`."""
    from callbacks.retrieval_ranks import hit_rate, rank_both_ways, right_captions

    right = right_captions(given.picture, np.arange(len(given.text)))
    ranks = rank_both_ways(given.image, given.text, right, np.arange(len(given.image))[None])
    return {f'{way} {k}': float(hit_rate(r, k)) for way, r in zip(('i2t', 't2i'), ranks, strict=True) for k in NEAREST}


def clip_benchmark(given: Given) -> dict[str, float]:
    """By CLIP_benchmark, with a model whose pictures and captions are their embeddings."""
    from clip_benchmark.metrics import zeroshot_retrieval  # type: ignore[import-not-found]

    class Model:
        def encode_image(self, image: Tensor) -> Tensor:
            return image

        encode_text = encode_image

    def batches() -> Iterator[tuple[Tensor, list[list[int]]]]:
        for rows in torch.arange(len(given.image)).split(BATCH):
            yield given.image[rows], [np.flatnonzero(given.picture == row).tolist() for row in rows.numpy()]

    arguments: Any = Model(), [*batches()], lambda captions: given.text[captions], 'cpu'
    metrics = zeroshot_retrieval.evaluate(*arguments, amp=False, recall_k_list=NEAREST)
    names = {'i2t': 'text_retrieval_recall', 't2i': 'image_retrieval_recall'}
    return {f'{way} {k}': metrics[f'{name}@{k}'] for way, name in names.items() for k in NEAREST}


def draw(pictures: int, captions: int, width: int, noise: float = 2.0) -> Given:
    """Pictures at random, each with the same number of captions around it."""
    random = np.random.default_rng(0)
    image = random.standard_normal((pictures, width), np.float32)
    picture = np.repeat(np.arange(pictures), captions)
    text = image[picture] + noise * random.standard_normal((len(picture), width), np.float32)
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    return Given(torch.from_numpy(image), torch.from_numpy(text), picture)


def main(name: str, file: Path) -> None:
    """Measures one of both functions."""
    ways: dict[str, Callable[[Given], dict[str, float]]] = {'ours': ours, 'clip_benchmark': clip_benchmark}
    with np.load(file) as arrays:
        given = Given(torch.from_numpy(arrays['image']), torch.from_numpy(arrays['text']), arrays['picture'])
    ways[name](Given(given.image[:BATCH], given.text[given.picture < BATCH], given.picture[given.picture < BATCH]))
    torch.set_num_threads(1)
    recalls: dict[str, float] = {}
    with Memory() as memory:
        time = seconds(lambda: recalls.update(ways[name](given)))
    print(json.dumps({'seconds': time, 'bytes': memory.peak, 'recalls': recalls}))


if __name__ == '__main__':
    main(sys.argv[1], Path(sys.argv[2]))
