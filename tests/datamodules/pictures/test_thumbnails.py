from __future__ import annotations

import numpy as np
from PIL import Image

from datamodules.pictures.thumbnails import REACH, thumbnails
from tests.helpers.natural import natural_pictures, saved_as_jpeg

PICTURES = natural_pictures(10, 64, seed=0)


def distances(copies: np.ndarray) -> np.ndarray:
    return (thumbnails(PICTURES) - thumbnails(copies)).norm(dim=1).numpy()


def test_copies_that_were_saved_anew_are_within_reach() -> None:
    assert (distances(np.stack([saved_as_jpeg(picture, quality=75) for picture in PICTURES])) < REACH).all()


def test_copies_that_were_resized_are_within_reach() -> None:
    resized = [Image.fromarray(x.transpose(1, 2, 0)).resize((48, 48)).resize((64, 64)) for x in PICTURES]
    assert (distances(np.stack([np.asarray(x).transpose(2, 0, 1) for x in resized])) < REACH).all()


def test_other_pictures_and_shifted_ones_are_not() -> None:
    assert (distances(np.roll(PICTURES, 1, 0)) > REACH).all()
    assert (distances(np.roll(PICTURES, 8, 3)) > REACH).all()
