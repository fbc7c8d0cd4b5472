from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.evaluation.labeled import ClassFolders, FolderOfClasses, read_labeled_folder, read_prompts
from datamodules.usage_error import UsageError
from tests.helpers.tiny import TinyPairs, set_up


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


class TestClassFolders:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        write_class_folders(tmp_path / 'train', each=5)
        write_class_folders(tmp_path / 'val', each=3)
        return tmp_path

    def test_have_a_training_split_of_the_same_classes(self, root: Path) -> None:
        (root / 'classes.tsv').write_text('sea_lion\tseal\ncat\tcat\n')
        test, train = ClassFolders(str(root)).read('data.labeled.animals')
        assert train is not None and train().classes == test.classes == ('seal', 'cat')
        assert np.bincount(train().label).tolist() == [5, 5] and np.bincount(test.label).tolist() == [3, 3]

    def test_training_pictures_are_drawn_class_by_class(self, root: Path) -> None:
        (root / 'train/cat/0.png').unlink()
        labeled = ClassFolders(str(root), train_per_class=2)
        first, second = (read() for read in (labeled.read('x').train, labeled.read('x').train) if read is not None)
        assert np.bincount(first.label).tolist() == [2, 2] and first.image.equals(second.image)
        all_but_one = ClassFolders(str(root), train_per_class=5).read('x').train
        assert all_but_one is not None and np.bincount(all_but_one().label).tolist() == [4, 5]

    @pytest.mark.parametrize(('missing', 'named'), [('train', 'train'), ('val', 'test or val')])
    def test_a_missing_split_is_refused(self, missing: str, named: str, root: Path) -> None:
        (root / missing).rename(root / 'other')
        with pytest.raises(UsageError, match=rf"data\.labeled\.animals\.root='.*' has no folder {named}: put <class>"):
            ClassFolders(str(root)).read('data.labeled.animals')

    def test_a_test_split_without_a_class_is_refused(self, root: Path) -> None:
        for image in (root / 'val/cat').iterdir():
            image.unlink()
        with pytest.raises(UsageError, match=r"val' has images of 1 of the 2 classes, and none of 'cat': complete it"):
            ClassFolders(str(root)).read('x')

    def test_are_measured_with_their_metric_and_prompts(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / 'p.json').write_text(json.dumps({'classes': ['a', 'b'], 'templates': ['my {}', 'one {c}']}))
        (root / 'train/cat/0.png').write_text('no picture')
        labeled = ClassFolders(str(root), metric='mean_per_class', prompts=str(tmp_path / 'p.json'))
        data = set_up(TinyPairs(labeled={'animals': labeled}, cache_dir=str(tmp_path / 'cache')))
        animals = next(each for each in data.evaluation_sets if each.name == 'animals')
        assert (animals.classes, animals.templates) == (('a', 'b'), ('my {}', 'one {}'))
        assert animals.metric == 'mean_per_class' and animals.train is not None
        assert animals.train().label.tolist() == [-1, 0, 0, 0, 0, 1, 1, 1, 1, 1]


def test_a_folder_of_classes_has_no_training_split(tmp_path: Path) -> None:
    assert FolderOfClasses(str(write_class_folders(tmp_path))).read('x').train is None


def test_held_out_pictures_have_the_clean_training_pictures_to_train_on(tmp_path: Path) -> None:
    data = set_up(TinyPairs(broken=[3], cache_dir=str(tmp_path)))
    (heldout,) = data.evaluation_sets
    assert heldout.train is not None
    train = heldout.train()
    assert train.label.tolist() == [-1 if row == 3 else row % 4 for row in range(32)]
    assert np.array_equal(train.read(np.array([1, 5])), data.pictures('train', np.array([1, 5])))


class TestPrompts:
    def read(self, folder: Path, content: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
        (folder / 'p.json').write_text(content if isinstance(content, str) else json.dumps(content))
        return read_prompts(str(folder / 'p.json'), ['x', 'y'], ['a {}'], 'data.labeled.pets.prompts')

    def test_a_file_may_hold_names_or_templates_alone(self, tmp_path: Path) -> None:
        assert self.read(tmp_path, {'classes': ['v', 'w']}) == (('v', 'w'), ('a {}',))
        assert self.read(tmp_path, {'templates': ['the {}']}) == (('x', 'y'), ('the {}',))

    @pytest.mark.parametrize(
        ('content', 'message'),
        [
            ({'classes': ['a']}, 'names 1 classes, but the set has 2: name all'),
            ({'classes': ['a', 'A']}, "has both 'a' and 'A': give each class a name"),
            ({'templates': ['a']}, "has 'a': write {} where the name of a class goes"),
            ({'classnames': ['a', 'b']}, 'is no file of prompts: write'),
            ({'classes': [1, 2]}, 'is no file of prompts'),
            ('{', 'is no file of prompts'),
            ('[]', 'is no file of prompts'),
        ],
    )
    def test_a_file_that_cannot_be_used_is_refused(self, content: Any, message: str, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"^data\.labeled\.pets\.prompts='.*' " + message):
            self.read(tmp_path, content)
