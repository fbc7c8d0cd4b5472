from __future__ import annotations

import numpy as np

from experiments.explanation.embedding_map import map_embeddings
from tests.helpers.tiny import unit_rows


def test_captions_are_near_the_picture_that_a_model_finds_them_similar_to() -> None:
    image = unit_rows(10, 16, seed=0).float().numpy()
    owner = np.repeat(np.arange(10), 5)
    text = image[owner] + 0.01 * unit_rows(50, 16, seed=1).float().numpy()
    pictures, captions = map_embeddings(image, text)
    assert pictures.shape == (10, 2) and captions.shape == (50, 2)
    distance = np.linalg.norm(captions[:, None] - pictures, axis=-1)
    assert (distance.argmin(1) == owner).mean() > 0.9
    again = map_embeddings(image, text)
    assert np.array_equal(pictures, again[0]) and np.array_equal(captions, again[1])
