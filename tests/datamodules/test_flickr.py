from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from datamodules.flickr import Flickr8k, Flickr30k, are_listed
from datamodules.rows.table import PairTable
from tests.helpers.json_mutations import mutated_json
from tests.helpers.mutations import assert_one_sentence, mutations
from tests.helpers.picture_files import number_of, write_picture
from tests.helpers.published import write_flickr, write_json, write_list

CAPTIONS = {number: [f'photo {number} , said {place} "so" .' for place in range(5)] for number in (8, 1, 5, 2, 11, 3)}
SPLITS = {'train': [8, 5, 11], 'val': [1], 'test': [2]}  # number 3 is in none
FORMS = ['Flickr8k.token.txt', 'captions.txt', 'results.csv', 'dataset_flickr8k.json']


def numbers(table: PairTable) -> list[int]:
    """Numbers of the pictures; asserts that captions tell the same."""
    found = [number_of(table.open(row)) for row in range(len(table))]
    assert found == [int(caption.split()[1]) for caption in table.caption.to_pylist()]
    return found


def five_times_each(*photos: int) -> list[int]:
    return [number for number in photos for _ in range(5)]


class TestForms:
    @pytest.mark.parametrize('form', FORMS)
    def test_every_form_gives_the_same_pairs_and_splits(self, form: str, tmp_path: Path) -> None:
        file = write_flickr(tmp_path, CAPTIONS, form, SPLITS)
        module = Flickr8k(str(tmp_path), annotations=str(file))
        table, heldout = module.load_table(), module.load_heldout()
        assert numbers(table) == five_times_each(8, 5, 11) and table.captions(range(5)) == CAPTIONS[8]
        assert heldout is not None and numbers(heldout) == five_times_each(1)

    @pytest.mark.parametrize('form', FORMS)
    def test_every_form_can_be_used_without_splits(self, form: str, tmp_path: Path) -> None:
        file = write_flickr(tmp_path, CAPTIONS, form)
        module = Flickr8k(str(tmp_path), split='all', heldout_split=None, annotations=str(file))
        assert numbers(module.load_table()) == five_times_each(*CAPTIONS) and module.load_heldout() is None

    def test_files_are_found_by_their_usual_names(self, tmp_path: Path) -> None:
        for form in ('captions.txt', 'Flickr8k.token.txt'):
            write_flickr(tmp_path, CAPTIONS, form, SPLITS)
        assert Flickr8k(str(tmp_path))._file.name == 'Flickr8k.token.txt'
        write_flickr(tmp_path, CAPTIONS, 'results.csv', SPLITS).rename(tmp_path / 'results_20130124.token')
        write_flickr(tmp_path, CAPTIONS, 'dataset_flickr8k.json', SPLITS).rename(tmp_path / 'dataset_flickr30k.json')
        (tmp_path / 'Images').rename(tmp_path / 'flickr30k-images')
        assert numbers(Flickr30k(str(tmp_path)).load_table()) == five_times_each(8, 5, 11)

    def test_a_table_may_have_other_columns(self, tmp_path: Path) -> None:
        write_flickr(tmp_path, CAPTIONS, 'captions.txt')
        lines = ['image_name,comment_number,comment', '1001_ab1.jpg,0," photo 1 , in\r\ntwo lines"']
        write_list(tmp_path / 'captions.txt', lines)
        table = Flickr8k(str(tmp_path), split='all', heldout_split=None).load_table()
        assert table.caption.to_pylist() == ['photo 1 , in two lines']

    def test_reads_the_published_line_that_lacks_a_bar(self, tmp_path: Path) -> None:
        file = write_flickr(tmp_path, CAPTIONS, 'results.csv')
        with file.open('a') as lines:
            lines.write('1001_ab1.jpg| 4   photo 1 runs .\n')
        module = Flickr8k(str(tmp_path), split='all', heldout_split=None, annotations=str(file))
        assert module.load_table().captions([10]) == ['photo 1 runs .']


class TestSplits:
    @pytest.mark.parametrize(('split', 'heldout', 'expected'), [('val', 'test', [1]), ('test', None, [2])])
    def test_choose_the_images(self, split: Any, heldout: Any, expected: list[int], tmp_path: Path) -> None:
        write_flickr(tmp_path, CAPTIONS, 'Flickr8k.token.txt', SPLITS)
        assert numbers(Flickr8k(str(tmp_path), split=split, heldout_split=heldout).load_table()) == five_times_each(
            *expected
        )

    def test_reads_lists_of_flickr30k_entities_without_suffixes(self, tmp_path: Path) -> None:
        write_flickr(tmp_path, CAPTIONS, 'captions.txt')
        write_list(tmp_path / 'train.txt', ['1011_ab11', '1003_ab3', ''])
        write_list(tmp_path / 'dev.txt', ['1001_ab1'])
        data = Flickr8k(str(tmp_path))
        assert numbers(data.load_table()) == five_times_each(11, 3)
        heldout = data.load_heldout()
        assert heldout is not None and numbers(heldout) == five_times_each(1)

    def test_the_seed_draws_one_caption_of_each_image(self, tmp_path: Path) -> None:
        write_flickr(tmp_path, CAPTIONS, 'Flickr8k.token.txt', SPLITS)
        tables = [Flickr8k(str(tmp_path), captions='one', caption_seed=seed).load_table() for seed in (0, 0, 1, 2, 3)]
        assert all(numbers(table) == [8, 5, 11] for table in tables)
        assert tables[0].caption == tables[1].caption and len({str(table.caption) for table in tables}) > 1
        heldout = Flickr8k(str(tmp_path), captions='one').load_heldout()
        assert heldout is not None and numbers(heldout) == five_times_each(1)

    @pytest.mark.parametrize('suffix', ['.png', '.JPG'])
    @pytest.mark.parametrize('listed', ['{}.png', '{}.jpg', '{}'])
    def test_photos_and_lists_may_have_any_suffix(self, listed: str, suffix: str, tmp_path: Path) -> None:
        names = [f'{number}{suffix}' for number in range(4)]
        for number, name in enumerate(names):
            write_picture(tmp_path / 'Images' / name, number)
        write_list(tmp_path / 'captions.txt', ['image,caption', *(f'{name},photo {name[0]}' for name in names)])
        write_list(tmp_path / 'train.txt', [listed.format(number) for number in (0, 3)])
        assert numbers(Flickr8k(str(tmp_path), heldout_split=None).load_table()) == [0, 3]

    @pytest.mark.parametrize('form', ['Images/{}', '{}#0', '"{}"'])
    def test_lists_may_have_folders_numbers_of_captions_and_quotes(self, form: str, tmp_path: Path) -> None:
        write_flickr(tmp_path, CAPTIONS, 'captions.txt', SPLITS)
        for file in tmp_path.glob('*Images.txt'):
            write_list(file, map(form.format, file.read_text().split()))
        assert numbers(Flickr8k(str(tmp_path)).load_table()) == five_times_each(8, 5, 11)

    @pytest.mark.parametrize('form', FORMS)
    def test_captions_may_be_of_images_in_a_folder(self, form: str, tmp_path: Path) -> None:
        file = write_flickr(tmp_path, CAPTIONS, form, SPLITS)
        file.write_text(re.sub(r'(\d+_ab\d+\.jpg)', r'Images/\1', file.read_text()))
        assert numbers(Flickr8k(str(tmp_path), annotations=str(file)).load_table()) == five_times_each(8, 5, 11)

    @pytest.mark.parametrize('suffix', ['.JPG', '.png', ''])
    def test_captions_may_give_another_suffix(self, suffix: str, tmp_path: Path) -> None:
        file = write_flickr(tmp_path, CAPTIONS, 'captions.txt', SPLITS)
        file.write_text(file.read_text().replace('.jpg', suffix))
        assert numbers(Flickr8k(str(tmp_path)).load_table()) == five_times_each(8, 5, 11)

    def test_two_photos_that_differ_in_their_suffix_stay_apart(self) -> None:
        assert are_listed(['a.jpg', 'a.png'], {'a.jpg'}) == [True, False]


@pytest.mark.parametrize('form', ['Flickr8k.token.txt', 'results.csv', 'dataset_flickr8k.json'])
def test_bad_entries_are_counted(form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write_flickr(tmp_path, {1: ['photo 1'], 2: ['photo 2']}, form)
    if file.suffix == '.json':
        content = json.loads(file.read_text())
        content['images'] += [None, {'filename': 3}, {'filename': 'x.jpg', 'split': 'none', 'sentences': [{'raw': 1}]}]
        write_json(file, content)
    else:
        file.write_bytes(b'no caption\n' + file.read_bytes() + 'x.jpg#0\tcafé\nx.jpg|0|café\n'.encode('latin1'))
    module = Flickr8k(str(tmp_path), split='all', heldout_split=None, annotations=str(file))
    with caplog.at_level(logging.WARNING):
        assert numbers(module.load_table()) == [1, 2]
    kinds = {
        'Flickr8k.token.txt': [
            "1 of 5 lines have no image, number and caption; first: line 1, 'no caption'",
            '2 of 5 lines are not UTF-8',
        ],
        'results.csv': [
            "1 of 5 lines have no image, number and caption; first: line 2, 'image_name|",
            '2 of 5 lines are not',
        ],
        'dataset_flickr8k.json': [
            '2 of 5 images have no filename or no split; first: image 3',
            '1 of 3 annotations',
            'images are in no split of train, val and test, or in a second one, which does not count; first: ',
        ],
    }
    assert all(kind in caplog.text for kind in kinds[form])


def test_mutated_captions_end_in_a_sentence(tmp_path: Path) -> None:
    for form in FORMS:
        file = write_flickr(tmp_path, {1: CAPTIONS[1], 2: CAPTIONS[2]}, form)
        good = file.read_bytes()
        changed = mutated_json(json.loads(good), 60) if file.suffix == '.json' else ()
        for data in (*mutations(good, 40), *changed):
            file.write_bytes(data)
            with assert_one_sentence():
                Flickr8k(str(tmp_path), split='all', heldout_split=None, annotations=str(file)).load_table()


def test_captions_of_missing_photos_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write_flickr(tmp_path, CAPTIONS, 'Flickr8k.token.txt', SPLITS)
    with file.open('a') as lines:  # as published: another name, not the sixth caption of a photo that there is
        lines.writelines(f'1008_ab8.jpg.1#{place}\ta dog {place}\n' for place in range(5))
    module = Flickr8k(str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert numbers(module.load_table()) == five_times_each(8, 5, 11) and module.load_heldout() is not None
    source = f"data.root='{tmp_path}': Flickr8k.token.txt"
    assert caplog.messages == [f'{source}: 5 of 35 captions belong to images that do not exist; left out']


class TestBadInput:
    def check_refused(self, message: str, root: Path, **arguments: Any) -> None:
        with pytest.raises(ValueError, match=message) as error:
            Flickr8k(str(root), **arguments).load_table()
        assert '\n' not in str(error.value) and 'data.' in str(error.value)

    def test_missing_files_and_folders_are_named(self, tmp_path: Path) -> None:
        self.check_refused(r"data\.root='.*absent' does not exist", tmp_path / 'absent')
        self.check_refused(r'contains none of Flickr8k\.token\.txt, .*: set data\.annotations to the file', tmp_path)
        self.check_refused(r"data\.annotations='absent' does not exist", tmp_path, annotations='absent')
        write_flickr(tmp_path, CAPTIONS, 'captions.txt', SPLITS)
        self.check_refused(r"data\.image_folder='absent' does not exist", tmp_path, image_folder='absent')
        (tmp_path / 'Images').rename(tmp_path / 'holiday')
        self.check_refused(r'contains none of Flicker8k_Dataset, .*: set data\.image_folder to the folder', tmp_path)
        (tmp_path / 'Images').mkdir()
        self.check_refused(r"none of its 6 images is in '.*Images', where '1008_ab8\.jpg' should be", tmp_path)

    def test_a_missing_list_of_the_split_is_reported(self, tmp_path: Path) -> None:
        write_flickr(tmp_path, CAPTIONS, 'Flickr8k.token.txt')
        self.check_refused(
            r"does not say which images are in the split 'train', and there is no Flickr_8k\.trainImages", tmp_path
        )
        write_list(tmp_path / 'train.txt', ['another'])
        self.check_refused(
            r"has no image of the split 'train', whose list names 'another': .* such as '1008_ab8.jpg'", tmp_path
        )
        write_list(tmp_path / 'train.txt', [])
        self.check_refused(r"has no image of the split 'train', whose list is empty", tmp_path)

    @pytest.mark.parametrize(
        ('content', 'message'),
        [
            ('', 'is empty'),
            (
                'image_name| comment_number| comment\na.jpg a dog\n',
                "has no caption: 1 of 1 lines have no image, number and caption; first: line 2, 'a.jpg a dog'",
            ),
            ('name,words\na.jpg,a dog\n', "needs columns image and caption in its first line, and has 'name', 'words'"),
            ('image,caption\na.jpg,a dog, outside\n', '1 of 1 rows do not have 2 fields'),
        ],
    )
    def test_a_text_of_another_form_is_rejected(self, content: str, message: str, tmp_path: Path) -> None:
        (tmp_path / 'captions.txt').write_text(content)
        self.check_refused(message, tmp_path, image_folder=str(tmp_path))

    @pytest.mark.parametrize('key', ['filename', 'sentences', 'split'])
    def test_another_json_file_is_rejected(self, key: str, tmp_path: Path) -> None:
        image = {'filename': 'a.jpg', 'sentences': [{'raw': 'a dog'}], 'split': 'train'}
        del image[key]
        file = write_json(tmp_path / 'dataset_flickr8k.json', {'images': [image]})
        self.check_refused("it is not Karpathy's file", tmp_path, annotations=str(file), image_folder=str(tmp_path))

    def test_impossible_splits_and_choices_of_captions_are_rejected(self) -> None:
        self.check_refused(r"data\.split='dev' must be train, val, test or all", Path(), split='dev')
        self.check_refused(r"data\.heldout_split='val' is also trained on", Path(), split='val')
        self.check_refused(r"data\.heldout_split='val' is also trained on with data\.split='all'", Path(), split='all')
        self.check_refused(r"data\.captions='two' must be one or all", Path(), captions='two')
