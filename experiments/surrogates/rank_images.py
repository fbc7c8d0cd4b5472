"""Makes the file for ``Backdoor.ranking``: images ordered by their similarity to a class under a surrogate."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from datamodules.attacks import Pixels
from datamodules.attacks.ranking import write_ranking
from datamodules.rows.table import Origin
from experiments.surrogates.surrogate import Surrogate


def rank(surrogate: Surrogate, target: str, source: Origin, file: str) -> None:
    """Writes the images that attacks may take, those most similar to a class first, and prints how many show it.

    Args:
        surrogate: Model that measures similarity, with clean pairs.
        target: Name of the class.
        source: Table of the images.
        file: Path of the CSV to write.

    Raises:
        UsageError: If there is no such class, or no such table.
    """
    pool, pixels = surrogate.data.attack_pool(), surrogate.data.pictures
    index, images = pool.index(target), pool.untaken(source, pool.images(source))
    similarity = measure_similarities(surrogate, pixels, source, images, index)
    order = np.argsort(-similarity, kind='stable')
    names = pool.origin(source).names().take(pa.array(images[order])).to_pylist()
    write_ranking(file, names, similarity[order])
    print(f'{file}: {len(images):,} {source} images, ranked by the surrogate with SHA-256 {surrogate.hash_weights()}')
    print(
        f'{len(pool.showing(source, index)):,} of them show {target!r}: attacks on images of other classes skip these'
    )


def measure_similarities(
    surrogate: Surrogate, pixels: Pixels, source: Origin, images: np.ndarray, target: int
) -> np.ndarray:
    """Cosine similarity of images to a class, whose embedding is the mean of its prompts: float32 (n,), in [-1, 1].

    Args:
        surrogate: Model that measures similarity.
        pixels: Reads stored pictures.
        source: Table of the images.
        images: A row of each image, int64 (n,).
        target: Index of the class.
    """
    parts = np.array_split(images, -(-len(images) // surrogate.data.eval_batch_size))
    progress = tqdm(parts, 'ranking images', leave=False, disable=None)
    similarities = [surrogate.embed_pictures(pixels(source, part)) @ surrogate.classifier[target] for part in progress]
    return np.concatenate([part.cpu().numpy() for part in similarities])
