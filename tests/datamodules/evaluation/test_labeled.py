from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from datamodules.evaluation.labeled import read_labeled_folder
from tests.helpers.tiny import TinyPairs


def write_class_folders(root: Path, classes: tuple[str, ...] = ('cat', 'sea_lion'), each: int = 3) -> Path:
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(each):
            Image.new('RGB', (8, 8), (label * 100, number * 20, 0)).save(root / name / f'{number}.png')
    return root


class TestLabeledFolder:
    def test_folders_are_classes_in_alphabetical_order(self, tmp_path: Path) -> None:
        table = read_labeled_folder(str(write_class_folders(tmp_path)), 'data.labeled.animals')
        assert table.classes == ('cat', 'sea lion')
        assert table.label.tolist() == [0, 0, 0, 1, 1, 1]
        assert table.open(4).getpixel((0, 0)) == (100, 20, 0)

    def test_a_missing_folder_is_reported_with_its_argument(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r'data\.labeled\.animals'):
            read_labeled_folder(str(tmp_path / 'gone'), 'data.labeled.animals')


def test_a_labeled_set_has_its_own_classes(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / 'animals')
    data = TinyPairs(image_size=8, context_length=8, labeled={'animals': str(root)}, cache_dir=str(tmp_path / 'cache'))
    data.prepare_data()
    data.setup('fit')
    added = next(s for s in data.evaluation_sets if s.name == 'animals')
    assert (len(added), added.classes, added.kind) == (6, ('cat', 'sea lion'), 'zero_shot')
    assert data.prompt_tokens()[data.evaluation_sets.index(added)].shape[0] == 2
