from __future__ import annotations

import logging
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from datamodules.files.class_folders import list_images_by_class, read_class_names
from datamodules.usage_error import UsageError
from tests.helpers.picture_files import write_picture


@pytest.fixture
def train(tmp_path: Path) -> Path:
    for image in ('sea_lion/b.jpg', 'sea_lion/deeper/a.jpg', 'cat/c.png', 'cat/notes.txt', '.cache/d.jpg'):
        write_picture(tmp_path / 'train' / image, 0)
    return tmp_path / 'train'


class TestReadClassNames:
    def test_names_are_those_of_the_folders_in_order(self, train: Path) -> None:
        assert list(read_class_names(train).items()) == [('cat', 'cat'), ('sea_lion', 'sea lion')]

    def test_classes_tsv_gives_names_and_order(self, train: Path) -> None:
        (train.parent / 'classes.tsv').write_text('sea_lion\tsea lion, otary\ncat\thouse  cat\n')
        assert list(read_class_names(train).items()) == [('sea_lion', 'sea lion'), ('cat', 'house cat')]

    @pytest.mark.parametrize('twin', ['Sea_Lion', 'sea lion', 'sea\tlion'])
    def test_rejects_two_folders_of_one_class(self, twin: str, train: Path) -> None:
        (train / twin).mkdir()
        with pytest.raises(UsageError, match=r'has two folders of one class, .*: merge them, or give each a name'):
            read_class_names(train)
        (train.parent / 'classes.tsv').write_text(f'cat\tcat\nsea_lion\tsea lion\n{twin}\tanother\n')
        if '\t' not in twin:
            assert list(read_class_names(train).values()) == ['cat', 'sea lion', 'another']

    def test_a_name_has_no_control_characters_and_is_not_empty(self, train: Path) -> None:
        (train / 'a\x1b[2J\nb').mkdir()
        assert read_class_names(train)['a\x1b[2J\nb'] == 'a [2J b'
        (train / '__').mkdir()
        with pytest.raises(UsageError, match="has a folder '__', which names no class: rename it"):
            read_class_names(train)

    def test_rejects_a_folder_with_two_lines(self, train: Path) -> None:
        (train.parent / 'classes.tsv').write_text('cat\tcat\nsea_lion\tlion\ncat\tox\n')
        with pytest.raises(UsageError, match="has two lines for the folder 'cat': remove one"):
            read_class_names(train)

    def test_rejects_a_folder_without_a_name(self, train: Path) -> None:
        (train.parent / 'classes.tsv').write_text('cat\tcat\n')
        with pytest.raises(ValueError, match="has no line for the folder 'sea_lion': add one"):
            read_class_names(train)


class TestListImagesByClass:
    def test_lists_images_at_any_depth_with_their_label(self, train: Path) -> None:
        images, label = list_images_by_class(train, ['boat', 'cat', 'sea_lion'])
        assert images == ['cat/c.png', 'sea_lion/b.jpg', 'sea_lion/deeper/a.jpg']
        assert label.tolist() == [1, 2, 2]

    def test_rejects_a_folder_of_an_unknown_class(self, train: Path) -> None:
        with pytest.raises(ValueError, match="'sea_lion', which is not a class of the training images"):
            list_images_by_class(train, ['cat'])

    def test_what_is_left_out_is_counted(self, train: Path, caplog: pytest.LogCaptureFixture) -> None:
        for image in ('__MACOSX/cat/._c.png', 'cat/._c.png', 'cat/.ipynb_checkpoints/c.png', 'cat/caf\udce9.jpg'):
            write_picture(train / image, 0)
        (train / 'cat/all').symlink_to(train)
        (train / 'lost+found').mkdir()
        (train / 'loop').symlink_to('loop')
        (train / 'everything').symlink_to('/')
        (train / 'cat/Thumbs.db').touch()
        with caplog.at_level(logging.WARNING):
            images, _ = list_images_by_class(train, list(read_class_names(train)))
        assert images == ['cat/c.png', 'sea_lion/b.jpg', 'sea_lion/deeper/a.jpg']
        lines = [record.getMessage().partition(': ')[2] for record in caplog.records]
        lines.sort(reverse=True)
        assert lines[0].startswith('5 of 11 images and folders are hidden or left behind by a system; first: ')
        assert [line.partition('; left out')[0] for line in sorted(lines[1:])] == [
            r"1 of 11 images and folders are links to a folder that they are in; first: 'everything'",
            r"1 of 11 images and folders are links to folders; first: 'cat/all'",
            r"1 of 11 images and folders have a name that is not UTF-8; first: 'cat/caf\udce9.jpg'",
        ]

    def test_an_accent_may_be_written_in_two_ways(self, train: Path) -> None:
        write_picture(train / unicodedata.normalize('NFD', 'fée') / '0.jpg', 0)
        assert list_images_by_class(train, ['fée', 'cat', 'sea_lion'])[1].tolist() == [0, 1, 2, 2]

    @pytest.mark.parametrize('root', ['nowhere', 'train/cat/c.png'])
    def test_rejects_what_is_no_folder(self, root: str, train: Path) -> None:
        with pytest.raises(UsageError, match=r"(nowhere|c\.png)' cannot be listed: (No such file|Not a directory)"):
            read_class_names(train.parent / root)


def test_any_names_are_counted_or_refused_in_one_sentence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = ['cat', 'Cat', 'c_a t', 'a\nb', '\x1b[2J', '_', '.git', '__MACOSX', 'é', 'e\u0301', 'caf\udce9', 'x' * 200]
    files = ['0.jpg', '.0.jpg', '0.JPEG', 'caf\udce9.png', 'notes.txt', '\t.gif', '1.jpg/2.jpg', 'deep/er/3.png']
    caplog.set_level(logging.WARNING)
    refused = 0
    for seed in range(60):
        draw, root = np.random.default_rng(seed), tmp_path / str(seed) / 'train'
        paths = {f'{draw.choice(parts)}/{draw.choice(files)}' for _ in range(draw.integers(1, 8))}
        for path in paths:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).touch()
        caplog.clear()
        try:
            images, label = list_images_by_class(root, list(read_class_names(root)))
        except UsageError as error:
            assert '\n' not in str(error) and '\x1b' not in str(error)
            refused += 1
            continue
        written = [path for path in paths if not path.endswith('.txt')]
        assert len(images) == len(label) == len({*images}) and {*images} <= {*written}
        assert len(images) == len(written) or 'left out' in caplog.text
    assert 10 < refused < 50
