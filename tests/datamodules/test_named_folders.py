from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from datamodules.named_folders import NAME_TEMPLATES, NamedFolders
from tests.helpers.picture_files import number_of
from tests.helpers.published import write_people

PHOTOS = {'Zoe_Lind': 4, 'Ada Bo': 5, 'Max_Ernst': 1}
NAMES = ('Ada Bo', 'Max Ernst', 'Zoe Lind')


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_people(tmp_path / 'people', PHOTOS)
    return tmp_path / 'people'


class TestPhotos:
    def test_photos_are_captioned_with_the_name_of_their_folder(self, root: Path) -> None:
        table = NamedFolders(str(root), heldout_photos=0).load_table()
        assert table.classes == NAMES and table.label.tolist() == [0] * 5 + [1] + [2] * 4
        assert all(number_of(table.open(row)) == table.label[row] for row in range(10))
        known = [{template.replace('{}', name) for template in NAME_TEMPLATES} for name in NAMES]
        assert all(caption in known[c] for caption, c in zip(table.caption.to_pylist(), table.label, strict=True))

    def test_captions_depend_only_on_the_caption_seed(self, root: Path) -> None:
        draws = [
            str(NamedFolders(str(root), caption_seed=s, seed=i).load_table().caption) for i, s in enumerate((0, 0, 1))
        ]
        assert draws[0] == draws[1] != draws[2]

    def test_prompts_default_to_the_caption_templates(self, root: Path) -> None:
        assert NamedFolders(str(root), caption_templates=['see {}']).templates == ('see {}',)
        assert NamedFolders(str(root), templates=['a {}']).templates == ('a {}',)

    def test_people_can_be_renamed(self, root: Path) -> None:
        module = NamedFolders(str(root), class_names=['A', 'B', 'C'], caption_templates=['{}'])
        assert module.load_table().classes == ('A', 'B', 'C') and module.load_table().captions([0]) == ['A']
        (root.parent / 'classes.tsv').write_text('Zoe_Lind\tEve\nAda Bo\tIda\nMax_Ernst\tJim\n')
        assert NamedFolders(str(root)).load_table().classes == ('Eve', 'Ida', 'Jim')


class TestHeldout:
    def test_one_photo_is_held_out_of_people_who_have_more(self, root: Path, caplog: pytest.LogCaptureFixture) -> None:
        module = NamedFolders(str(root))
        with caplog.at_level(logging.WARNING):
            train, heldout = module.load_table(), module.load_heldout()
        assert heldout is not None and heldout.label.tolist() == [0, 2] and heldout.classes == NAMES
        assert np.bincount(train.label).tolist() == [4, 1, 3]
        assert len({*train.image.to_pylist(), *heldout.image.to_pylist()}) == 10
        assert '1 of 3 people have at most 1 photos: all are trained on, none is held out' in caplog.text

    def test_depends_on_its_seed(self, root: Path) -> None:
        tables = [NamedFolders(str(root), heldout_seed=seed).load_heldout() for seed in (0, 0, 1, 2, 3)]
        draws = [str(table.image) for table in tables if table is not None]
        assert draws[0] == draws[1] and len(set(draws)) > 1

    def test_any_number_of_photos_can_be_held_out(self, root: Path) -> None:
        heldout = NamedFolders(str(root), heldout_photos=2).load_heldout()
        assert heldout is not None and np.bincount(heldout.label).tolist() == [2, 0, 2]
        assert NamedFolders(str(root), heldout_photos=0).load_heldout() is None
        assert NamedFolders(str(root), heldout_photos=9).load_heldout() is None


class TestBadInput:
    def check_refused(self, message: str, root: Path, **arguments: object) -> None:
        with pytest.raises(ValueError, match=message) as error:
            NamedFolders(str(root), **arguments).load_table()
        assert '\n' not in str(error.value)

    def test_is_reported_in_one_sentence(self, root: Path, tmp_path: Path) -> None:
        self.check_refused(r"data\.root='.*absent' does not exist", tmp_path / 'absent')
        self.check_refused('is a file: name the folder that contains', root / 'Ada Bo' / '000.jpg')
        self.check_refused(r'has no class folders', root / 'Ada Bo')
        self.check_refused(r"data\.caption_templates has 'a photo': write", root, caption_templates=['a photo'])
        self.check_refused(r'data\.heldout_photos=-1 must be at least 0', root, heldout_photos=-1)
        self.check_refused(r'data\.class_names must name the 3 people, in order; got 1', root, class_names=['A'])
