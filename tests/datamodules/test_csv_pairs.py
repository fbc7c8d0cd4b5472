from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np
import pytest

from callbacks.retrieval import number_pictures
from datamodules.csv_pairs import CSVPairs
from datamodules.rows.partition import DROPPED
from datamodules.rows.table import UNKNOWN
from datamodules.usage_error import UsageError
from tests.helpers.mutations import assert_one_sentence, mutations
from tests.helpers.picture_files import bomb, number_of, truncated_photo, write_picture


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(4):
        write_picture(tmp_path / 'images' / f'{number}.png', number)
    return tmp_path


def write_csv(root: Path, content: str, name: str = 'pairs.csv') -> str:
    (root / name).write_text(content, newline='')
    return str(root / name)


class TestIds:
    def test_captions_of_one_id_share_a_picture_whose_path_is_given_once(self, root: Path) -> None:
        rows = '7,,a dog\n8,images/1.png,a cat\n7,images/0.png,\n7,,a pet\n,images/2.png,a boat\n'
        table = CSVPairs(write_csv(root, 'id,image,caption\n' + rows), id_column='id').load_table()
        images = ['images/0.png', 'images/1.png', 'images/0.png', 'images/2.png']
        assert table.image.to_pylist() == images
        assert table.caption.to_pylist() == ['a dog', 'a cat', 'a pet', 'a boat']

    def test_an_id_that_no_picture_has_is_refused(self, root: Path) -> None:
        file = write_csv(root, 'id,image,caption\n7,images/0.png,a dog\n 9 ,,a cat\n9,,a pet\n8,,\n')
        with pytest.raises(UsageError, match=r"no row with the id '9' has a path, and 2 captions lack their picture"):
            CSVPairs(file, id_column='id').load_table()

    def test_retrieval_counts_a_picture_once(self, root: Path) -> None:
        file = write_csv(root, 'id,image,caption\n7,images/0.png,a dog\n7,images/1.png,a cat\n')
        assert number_pictures(CSVPairs(file, id_column='id').load_table()).tolist() == [0, 0]


class TestColumns:
    def test_reads_open_clip_s_table_unchanged(self, root: Path) -> None:
        file = write_csv(
            root, 'title\tfilepath\n"a ""big"" dog, outside"\timages/1.png\na cat\timages/0.png\n', 'a.csv'
        )
        table = CSVPairs(file).load_table()
        assert table.caption.to_pylist() == ['a "big" dog, outside', 'a cat']
        assert [number_of(table.open(row)) for row in range(2)] == [1, 0]
        assert table.label.tolist() == [UNKNOWN, UNKNOWN] and table.classes == ()

    def test_reads_cleanclip_s_table_unchanged(self, root: Path) -> None:
        table = CSVPairs(write_csv(root, 'image,caption\r\nimages/1.png,"a dog,\r\noutside"\r\n')).load_table()
        assert table.caption.to_pylist() == ['a dog, outside'] and table.image.to_pylist() == ['images/1.png']

    def test_reads_columns_of_other_names(self, root: Path) -> None:
        file = write_csv(root, 'id;text;path;caption\n7;a dog;2.png;x\n')
        module = CSVPairs(
            file,
            root=str(root / 'images'),
            image_column='path',
            caption_column='text',
            separator=';',
            label_column='id',
        )
        table = module.load_table()
        assert table.captions([0]) == ['a dog'] and number_of(table.open(0)) == 2

    def test_names_of_columns_in_any_case_and_spaces_around_fields_are_read(self, root: Path) -> None:
        table = CSVPairs(write_csv(root, 'Image , Caption\n images/1.png , a dog \n')).load_table()
        assert table.image.to_pylist() == ['images/1.png'] and table.caption.to_pylist() == ['a dog']

    def test_a_repeated_pair_is_counted_and_kept(self, root: Path, caplog: pytest.LogCaptureFixture) -> None:
        rows = 'images/1.png,a dog\nimages/1.png,a cat\nimages/1.png, a  dog\n'
        with caplog.at_level(logging.WARNING):
            assert len(CSVPairs(write_csv(root, 'image,caption\n' + rows)).load_table()) == 3
        assert '1 of 3 rows repeat an image with its caption; kept' in caplog.text

    def test_paths_may_be_absolute(self, root: Path) -> None:
        file = write_csv(root, f'image,caption\n{root}/images/3.png,a dog\n')
        assert number_of(CSVPairs(file, root=str(root / 'images')).load_table().open(0)) == 3

    def test_rows_keep_the_order_of_the_file(self, root: Path) -> None:
        lines = [f'images/{number}.png,caption {number}' for number in (3, 0, 2, 1)]
        table = CSVPairs(write_csv(root, '\n'.join(['image,caption', *lines]))).load_table()
        assert table.caption.to_pylist() == [f'caption {number}' for number in (3, 0, 2, 1)]

    def test_empty_captions_are_dropped_and_counted(self, root: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            table = CSVPairs(write_csv(root, 'image,caption\nimages/0.png," "\nimages/1.png,a dog\n')).load_table()
        assert table.image.to_pylist() == ['images/1.png'] and '1 of 2 captions are empty' in caplog.text

    def test_empty_paths_are_dropped_and_counted(self, root: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            table = CSVPairs(write_csv(root, 'image,caption\n ,a cat\nimages/1.png,a dog\n')).load_table()
        assert table.captions(range(len(table))) == ['a dog']
        assert '1 of 2 rows have no image path and are left out' in caplog.text


class TestLabels:
    content = 'image,caption,class\nimages/0.png,a,dog\nimages/1.png,b,\nimages/2.png,c,cat\n'

    def test_label_names_become_classes(self, root: Path) -> None:
        table = CSVPairs(write_csv(root, self.content), label_column='class').load_table()
        assert table.classes == ('cat', 'dog') and table.label.tolist() == [1, UNKNOWN, 0]

    def test_labels_stay_with_their_row_when_others_are_dropped(self, root: Path) -> None:
        content = self.content.replace('0.png,a', '0.png,')
        table = CSVPairs(write_csv(root, content), label_column='class').load_table()
        assert table.label.tolist() == [UNKNOWN, 0]

    def test_heldout_labels_are_read_in_the_same_way(self, root: Path) -> None:
        file = write_csv(root, self.content)
        heldout = CSVPairs(file, validation=file, label_column='class').load_heldout()
        assert heldout is not None and heldout.label.tolist() == [1, UNKNOWN, 0]
        assert CSVPairs(file).load_heldout() is None


class TestBadInput:
    @pytest.mark.parametrize(
        ('content', 'arguments', 'message'),
        [
            ('', {}, r"data\.train='.*' is empty: name a file"),
            ('image,caption\n', {}, r"data\.train='.*' has no usable pair"),
            ('image,caption\nimages/0.png,\n', {}, r'none of its 1 rows has an image and a caption'),
            ('image,caption\nimages/0.png,a,b\n', {}, '1 of 1 rows do not have 2 fields .*; first: line 2'),
            ('path,caption\n0,a\n', {}, "set data.image_column to one of 'path', 'caption'"),
            ('image,text\n0,a\n', {}, "set data.caption_column to one of 'image', 'text'"),
            ('image;caption\n0;a\n', {}, "one of 'image;caption', or data.separator"),
            ('image,caption\n0,a\n', {'image_column': 'file'}, "no column 'file': its columns are 'image', 'caption'"),
            (
                'image,caption\n0,a\n',
                {'label_column': 'class'},
                "no column 'class': its columns are 'image', 'caption'",
            ),
            (
                'image,caption\n0.png,a\n',
                {},
                "none of its images, 1 of which were looked for, is under '.*', where '0.png' should be",
            ),
            ('image,caption\nimages/0.png,a\n', {'root': 'absent'}, r"data\.root='absent' does not exist"),
            ('image,caption\nhttp://a.org/0.png,a\n', {}, 'lists web addresses: download the images'),
            ('image,caption\nfile:///a/0.png,a\n', {}, "such as 'file:///a/0.png': write paths, without file://"),
            ('image,caption\nimages\\0.png,a\n', {}, r'paths with backslashes, such as .*: replace them by slashes'),
            ('image,caption\n,a\n', {}, r'has no path in any of its 1 rows with a caption: set data\.image_column'),
            ('image,caption\nimages/0.png,0.png\n', {}, r"such as '0\.png': set data\.caption_column to the column"),
            ('image,caption\n0,a\n', {'caption_column': 'image'}, "are both 'image': set each to one of 'image', 'ca"),
        ],
    )
    def test_is_reported_in_one_sentence(
        self, content: str, arguments: dict[str, str], message: str, root: Path
    ) -> None:
        with pytest.raises(ValueError, match=message) as error:
            CSVPairs(write_csv(root, content), **arguments).load_table()
        assert '\n' not in str(error.value)

    def test_a_missing_file_is_reported_with_the_argument(self, root: Path) -> None:
        with pytest.raises(ValueError, match=r"data\.validation='absent.csv' does not exist"):
            CSVPairs('pairs.csv', validation='absent.csv').load_heldout()
        with pytest.raises(ValueError, match=r'is a folder: name the CSV'):
            CSVPairs(str(root)).load_table()

    def test_a_separator_of_two_characters_is_rejected(self) -> None:
        with pytest.raises(ValueError, match=r"data\.separator='::' must be one character"):
            CSVPairs('pairs.csv', separator='::')


def test_a_wrong_root_is_told_from_a_list_that_begins_with_missing_pictures(root: Path) -> None:
    missing = ''.join(f'images/{number}.png,photo\n' for number in range(10, 500))
    assert len(CSVPairs(write_csv(root, f'image,caption\n{missing}images/1.png,photo\n')).load_table()) == 491


class TestSwappedColumns:
    content = 'image,caption\n' + ''.join(
        f'"a long caption {"of nothing " * 30}",images/{row}.png\n' for row in range(4)
    )

    def test_are_named(self, root: Path) -> None:
        with pytest.raises(
            ValueError, match=r"names of images where captions should be, such as 'images/0.png': set d"
        ):
            CSVPairs(write_csv(root, self.content)).load_table()
        file = write_csv(root, self.content)
        assert len(CSVPairs(file, image_column='caption', caption_column='image').load_table()) == 4

    def test_are_told_by_files_without_a_suffix_too(self, root: Path) -> None:
        write_picture(root / '7.png', 7)
        (root / '7.png').rename(root / '7')
        with pytest.raises(ValueError, match=r"such as '7': set data\.image_column and data\.caption_column the other"):
            CSVPairs(write_csv(root, 'image,caption\na dog,7\n')).load_table()


def test_mutated_tables_end_in_a_sentence(root: Path) -> None:
    rows = 'image,caption,class\n' + ''.join(f'images/{row}.png,"a ""dog"" of {row}",{row}.0\n' for row in range(4))
    for data in mutations(rows.encode(), 150):
        (root / 'pairs.csv').write_bytes(data)
        with assert_one_sentence():
            CSVPairs(str(root / 'pairs.csv'), label_column='class', class_names=list('abcd')).load_table()


# --- many bad rows --------------------------------------------------------------------------------------------------


def write_bad_rows(root: Path, each: int) -> str:
    """Writes a list with the same number of rows of many kinds, good ones last."""
    (root / 'folder.png').mkdir()
    (root / 'note.png').write_text('no picture')
    (root / 'cut.jpg').write_bytes(truncated_photo())
    kinds = [
        'absent.png,a dog {}',
        'note.png,a dog {}',
        'cut.jpg,a dog {}',
        'folder.png,a dog {}',
        f'{"long" * 100}.png,a dog {{}}',
        f'{"9" * 30},a dog {{}}',
        'images/0.png, ',
        'images/0.png,' + 'long ' * 30_000,
        'images/0.png,caf\udce9 {}',
        'images/0.png,a \0 dog {}',
        'images/0.png,a, dog {}',
        'images/0.png',
        'images/0.png,"a dog {}',
        'image,caption',
        'images/1.png,a good dog {}',
    ]
    rows = [kind.format(number) for kind in kinds for number in range(each)]
    content = '\n'.join(['image,caption', *rows])
    (root / 'pairs.csv').write_bytes(content.encode(errors='surrogateescape'))
    return str(root / 'pairs.csv')


@pytest.mark.parametrize('each', [3, pytest.param(1000, marks=pytest.mark.slow)])
def test_among_bad_rows_of_every_kind_the_good_ones_are_trained_on(
    each: int, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_bad_rows(root, each)
    module = CSVPairs(file, cache_dir=str(root / 'cache'), batch_size=2, image_size=8, context_length=8)
    with caplog.at_level(logging.WARNING):
        started = time.monotonic()
        module.setup('fit')
        assert time.monotonic() - started < 60
    trained = np.flatnonzero(module.partition.side != DROPPED)
    assert module.table.captions(trained) == [f'a good dog {number}' for number in range(each)]
    rows = 15 * each
    for count, kind in [
        (each, 'rows have over 131,072 characters'),
        (each, 'rows are not UTF-8'),
        (each, 'rows contain a NUL character'),
        (2 * each, 'rows do not have 2 fields'),
        (each, 'rows open a quote that is not closed'),
        (each, 'rows repeat the header'),
    ]:
        assert f'{count} of {rows} {kind}' in caplog.text
    assert f'{each} of {8 * each} captions are empty' in caplog.text
    assert len(module.pictures.unreadable['train']) == 6 * each


def test_unreadable_pictures_are_never_trained_on(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / 'images' / '1.png').write_bytes(truncated_photo())
    (root / 'images' / '2.png').write_bytes(bomb())
    rows = ''.join(f'images/{number}.png,caption {number}\n' for number in range(5))  # the fifth does not exist
    file = write_csv(root, 'image,caption\n' + rows)
    module = CSVPairs(file, cache_dir=str(root / 'cache'), batch_size=2, image_size=8, context_length=8)
    with caplog.at_level(logging.WARNING):
        module.setup('fit')
    assert (module.partition.side == DROPPED).tolist() == [False, True, True, False, True]
    assert len(module.table) == 5 and '3 of 5 images cannot be read' in caplog.text
