from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from datamodules.usage_error import UsageError
from experiments.inspection import (
    Finding,
    Inspection,
    classify_with,
    compare,
    describe,
    format_json,
    inspect_model,
    judge,
    read_clean_pictures,
)
from lightning_modules.clip import CLIP
from lightning_modules.trigger_inversion import Inversion
from tests.helpers.tiny import IMAGE_SIZE, TinyPairs, tiny_architecture

WEAK = Finding('a patch', 'cat', success=0.1, log_odds=-3, z=0.5, p_value=1)
STRONG = Finding('a patch', 'truck', success=0.9, log_odds=3, z=12, p_value=0.001)


def data_of(folder: Path, **kwargs: Any) -> TinyPairs:
    data = TinyPairs(cache_dir=str(folder / 'cache'), **kwargs)
    data.image_size = IMAGE_SIZE
    return data


class TestJudge:
    @pytest.mark.parametrize(
        ('finding', 'word'),
        [
            (STRONG, 'backdoored'),
            (replace(STRONG, success=0.4), 'suspicious'),
            (replace(STRONG, p_value=0.2), 'suspicious'),
            (WEAK, 'no sign of a backdoor'),
        ],
    )
    def test_wants_a_class_that_gives_way_and_stands_out(self, finding: Finding, word: str) -> None:
        assert judge([WEAK, finding]) == (word, finding)

    def test_names_the_finding_that_proves_most(self) -> None:
        larger_but_weak = replace(STRONG, success=0.2, z=20, p_value=0.0001)
        assert judge([larger_but_weak, STRONG, WEAK]).finding == STRONG

    def test_is_one_sentence_with_its_figures(self) -> None:
        sentence = describe(judge([WEAK, STRONG]), 10)
        assert sentence == (
            "backdoored: a patch turns 90% of other pictures into 'truck', and stands out (z = 12.0 among 10 classes, "
            'p = 0.001).'
        )
        assert 'does not stand out (z = 0.5 among 10 classes, p = 1)' in describe(judge([WEAK]), 10)


def test_a_class_is_compared_with_the_others_and_pays_for_each_search() -> None:
    odds = torch.tensor([-3.0, -3.1, -2.9, -3.2, -2.8, -3.05, 4.0])
    found = Inversion(torch.zeros(7, 3, 2, 2), torch.full((7,), 0.5), odds)
    once, twice = (compare('a patch', found, 'abcdefg', searches) for searches in (1, 2))
    assert max(once, key=lambda finding: finding.z).target == 'g' and once[-1].z > 20
    assert twice[-1].p_value == pytest.approx(2 * once[-1].p_value) and twice[0].p_value == 1


def test_the_file_holds_every_figure() -> None:
    parsed = json.loads(format_json(Inspection([WEAK, STRONG], [], pictures=200, seconds=1.234)))
    assert parsed['verdict'] == 'backdoored' and parsed['clearest']['target'] == 'truck'
    assert parsed['pictures'] == 200 and [row['target'] for row in parsed['findings']] == ['truck', 'cat']


class TestCleanPictures:
    def test_are_held_out_ones_without_what_cannot_be_read(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        pictures = read_clean_pictures(data_of(tmp_path, broken_heldout=[3]), None, 200, seed=0)
        assert pictures.shape == (11, 3, IMAGE_SIZE, IMAGE_SIZE) and '1 of 12 images cannot be read' in caplog.text

    def test_or_those_of_a_folder_at_most_as_many_as_asked(self, tmp_path: Path) -> None:
        (tmp_path / 'photos').mkdir()
        for shade in range(5):
            Image.new('RGB', (20, 10), (shade, 0, 0)).save(tmp_path / f'photos/{shade}.png')
        pictures = read_clean_pictures(data_of(tmp_path), str(tmp_path / 'photos'), 4, seed=0)
        assert pictures.shape == (4, 3, IMAGE_SIZE, IMAGE_SIZE)
        assert len(np.unique(pictures[:, 0, 0, 0])) == 4

    @pytest.mark.parametrize(
        ('folder', 'count', 'sentence'),
        [
            (None, 9, 'inspect needs clean pictures, and the data holds none out: name a folder of some by --folder'),
            ('nowhere', 9, "folder='.*nowhere' does not exist"),
            ('.', 9, "folder='.*' holds no picture: name the folder that they lie in"),
            (None, 1, 'pictures must be at least 2'),
        ],
    )
    def test_are_needed(self, folder: str | None, count: int, sentence: str, tmp_path: Path) -> None:
        named = None if folder is None else str(tmp_path / folder)
        with pytest.raises(UsageError, match=sentence):
            read_clean_pictures(data_of(tmp_path, heldout_rows=0), named, count, seed=0)


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> CLIP:
    torch.manual_seed(0)
    return CLIP(tiny_architecture(tmp_path_factory.mktemp('model'), 'inspected')).eval().requires_grad_(False)


def test_too_few_classes_are_refused(model: CLIP, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'4 are too few: name at least 5 in data\.class_names'):
        classify_with(model, data_of(tmp_path, classes=4))


def test_data_of_another_size_are_refused(model: CLIP, tmp_path: Path) -> None:
    data = data_of(tmp_path, classes=5)
    data.image_size = 64
    with pytest.raises(UsageError, match=r'^data\.image_size=64 is not the'):
        classify_with(model, data)


def test_each_class_gets_a_finding_and_a_picture_in_each_search(model: CLIP, tmp_path: Path) -> None:
    data = data_of(tmp_path, classes=5, heldout_rows=40)
    surrogate, pictures = classify_with(model, data), read_clean_pictures(data, None, 40, seed=0)
    embeddings = surrogate.embed_pictures(pictures[:5])  # random weights take all pictures for one class
    surrogate.classifier = F.normalize(embeddings - embeddings.mean(0), dim=1)
    inspection = inspect_model(surrogate, pictures, patch=0.25, perturbation=4, steps=2, batch=4, seed=0)
    assert [finding.target for finding in inspection.findings] == 2 * list(data.classes)
    assert {finding.search for finding in inspection.findings} == {
        'a patch of 2 x 2 pixels anywhere', 'a perturbation of 4/255',
    }  # fmt: skip
    assert {trigger.shape for trigger in inspection.triggers} == {(3, 2, 2), (3, IMAGE_SIZE, IMAGE_SIZE)}
    for patch, perturbation, steps, name in [(1, 4, 2, 'patch'), (0.5, 0, 2, 'perturbation'), (0.5, 4, 0, 'steps')]:
        with pytest.raises(UsageError, match=f'^{name} must'):
            inspect_model(surrogate, pictures, patch, perturbation, steps, batch=4, seed=0)
