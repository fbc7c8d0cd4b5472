from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from datamodules.coco import COCO, read_coco
from datamodules.rows.table import PairTable
from datamodules.text.caption_groups import AnnotatedImage, group_captions
from tests.helpers.json_mutations import mutated_json
from tests.helpers.mutations import assert_one_sentence, mutations
from tests.helpers.picture_files import number_of
from tests.helpers.published import coco_name, write_coco, write_json

CAPTIONS = {number: [f'photo {number} , caption {place}' for place in range(5)] for number in (9, 1, 4, 12)}


def numbers(table: PairTable) -> list[int]:
    """Numbers of the pictures; asserts that captions tell the same."""
    found = [number_of(table.open(row)) for row in range(len(table))]
    said = [int(caption.split()[1]) for caption in table.caption.to_pylist()]
    assert found == said
    return found


@pytest.fixture(autouse=True)
def work_in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_coco(tmp_path / 'coco', CAPTIONS)
    write_coco(tmp_path / 'coco', {3: ['photo 3'], 7: ['photo 7']}, 'val')
    return tmp_path / 'coco'


class TestPublished:
    def test_images_are_in_the_order_of_the_file_with_one_caption_each(self, root: Path) -> None:
        assert numbers(COCO(str(root)).load_table()) == [9, 1, 4, 12]

    def test_the_caption_seed_draws_the_caption(self, root: Path) -> None:
        draws = [COCO(str(root), caption_seed=s, seed=i).load_table().caption for i, s in enumerate((0, 0, 1, 2))]
        assert draws[0] == draws[1] and len({str(draw) for draw in draws}) == 3

    def test_all_captions_can_be_used(self, root: Path) -> None:
        table = COCO(str(root), captions='all').load_table()
        assert numbers(table) == [number for number in (9, 1, 4, 12) for _ in range(5)]
        assert sorted(table.captions(range(5))) == CAPTIONS[9]

    def test_validation_images_are_held_out(self, root: Path) -> None:
        heldout = COCO(str(root)).load_heldout()
        assert heldout is not None and numbers(heldout) == [3, 7]

    def test_without_a_validation_folder_nothing_is_held_out(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        write_coco(tmp_path, CAPTIONS)
        with caplog.at_level(logging.WARNING):
            assert COCO(str(tmp_path)).load_heldout() is None
        assert 'has no folder val2014: nothing is held out' in caplog.text

    def test_reads_the_file_names_of_2017(self, tmp_path: Path) -> None:
        write_coco(tmp_path, CAPTIONS, year=2017)
        table = COCO(str(tmp_path), year=2017).load_table()
        assert numbers(table) == [9, 1, 4, 12] and table.image[0].as_py() == 'train2017/000000000009.jpg'

    def test_file_names_may_have_folders_with_slashes_of_either_kind(self, root: Path) -> None:
        file = root / 'annotations' / 'captions_train2014.json'
        content = json.loads(file.read_text())
        for image, folder in zip(content['images'], ('C:\\coco\\train2014\\', 'train2014/'), strict=False):
            image['file_name'] = folder + image['file_name']
        file.write_text(json.dumps(content))
        assert numbers(COCO(str(root)).load_table()) == [9, 1, 4, 12]

    @pytest.mark.parametrize('suffix', ['.JPG', '.png'])
    def test_images_on_disk_may_have_another_suffix(self, suffix: str, root: Path) -> None:
        for image in (root / 'train2014').iterdir():
            image.rename(image.with_suffix(suffix))
        assert numbers(COCO(str(root)).load_table()) == [9, 1, 4, 12]

    def test_finds_images_and_annotations_in_other_folders(self, root: Path) -> None:
        (root / 'images').mkdir()
        (root / 'train2014').rename(root / 'images' / 'train2014')
        (root / 'annotations' / 'captions_train2014.json').rename(root / 'captions_train2014.json')
        assert numbers(COCO(str(root)).load_table()) == [9, 1, 4, 12]

    def test_the_annotation_file_is_read_once(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = COCO(str(root)).load_table()

        def read(file: Path, source: str) -> Iterator[AnnotatedImage]:
            raise AssertionError('read again')

        monkeypatch.setattr('datamodules.coco.read_coco', read)
        assert COCO(str(root)).load_table().fingerprint == first.fingerprint


class TestQuirks:
    def test_quirks_are_handled_and_counted(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        captions = {
            1: ['photo 1\nin two lines '] + [f'photo 1 , {place}' for place in range(5)],
            2: ['photo 2'] * 2,
            3: ['photo 3'],
        }
        write_coco(tmp_path, captions, strays={8: ['photo 8', 'photo 8 again']}, absent=[3])
        with caplog.at_level(logging.WARNING):
            table = COCO(str(tmp_path), captions='all').load_table()
        assert numbers(table) == [1] * 6 + [2] * 2
        assert 'photo 1 in two lines' in table.caption.to_pylist()
        source = f"data.root='{tmp_path}': captions_train2014.json"
        assert caplog.messages == [
            f'{source}: 3 of 11 captions belong to images that do not exist; left out',
            f'{source}: 1 of 11 captions repeat another one of the same image',
            f'{source}: 1 of 11 captions contain a line break; replaced by a space',
            f'{source}: 1 of 4 images have more than 5 captions (1 of 6 captions)',
        ]

    @pytest.mark.parametrize('kind', [str, float, int])
    def test_numbers_of_images_may_be_text_or_fractions(self, kind: type, tmp_path: Path) -> None:
        file = write_coco(tmp_path, {1: ['photo 1'], 9: ['photo 9']})
        content = json.loads(file.read_text())
        for annotation in content['annotations']:
            annotation['image_id'] = kind(annotation['image_id'])
        write_json(file, content)
        assert numbers(COCO(str(tmp_path)).load_table()) == [1, 9]

    def test_entries_of_other_kinds_are_counted(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        file = write_coco(tmp_path, {1: ['photo 1'], 9: ['photo 9']})
        content = json.loads(file.read_text())
        content['annotations'] += [
            {'image_id': 1, 'caption': None}, {'image_id': 1, 'bbox': [0, 0, 1, 1]}, {'caption': 'photo'}, 7
        ]  # fmt: skip
        content['images'] += [{'id': 9, 'file_name': 'other.jpg'}, {'id': 3}, {'file_name': 'a.jpg'}, None]
        write_json(file, content)
        with caplog.at_level(logging.WARNING):
            first = COCO(str(tmp_path)).load_table()
            assert numbers(first) == [1, 9] and numbers(COCO(str(tmp_path)).load_table()) == [1, 9]
        source = f"data.root='{tmp_path}': captions_train2014.json"
        assert caplog.messages == 2 * [  # also from the cache
            f'{source}: 2 of 6 captions belong to images that do not exist; left out',
            f'{source}: 4 of 7 images lack a name or number, or have that of another; left out',
            f'{source}: 3 of 6 annotations have no caption that is text; left out',
        ]


def test_mutated_annotations_end_in_a_sentence(tmp_path: Path) -> None:
    file = write_coco(tmp_path, {1: ['photo 1', 'a "dog"'], 9: ['photo 9']})
    good = file.read_bytes()
    for data in (*mutations(good, 50), *mutated_json(json.loads(good), 100)):
        file.write_bytes(data)
        with assert_one_sentence():
            list(group_captions(read_coco(file, 'x')))


class TestBadInput:
    def check_refused(self, root: Path, message: str, **arguments: object) -> None:
        with pytest.raises(ValueError, match=message) as error:
            COCO(str(root), **arguments).load_table()
        assert '\n' not in str(error.value) and str(error.value).startswith('data.')

    def test_missing_files_and_folders_are_named(self, root: Path, tmp_path: Path) -> None:
        self.check_refused(tmp_path / 'absent', r"data\.root='.*absent' does not exist")
        self.check_refused(root, r'has no folder train2017: unpack train2017\.zip there', year=2017)
        (root / 'annotations' / 'captions_train2014.json').unlink()
        self.check_refused(root, r'has no annotations/captions_train2014\.json: unpack annotations_trainval2014\.zip')

    def test_a_folder_without_the_images_is_rejected(self, root: Path) -> None:
        for image in (root / 'train2014').iterdir():
            image.unlink()
        self.check_refused(
            root, r"none of its 4 images is in '.*train2014', where 'COCO_train2014_000000000009\.jpg' should"
        )

    @pytest.mark.parametrize(
        ('content', 'message'),
        [
            ({'images': [], 'annotations': []}, "lacks 'images' with id and file_name, or 'annotations'"),
            ([{'image_id': 1, 'caption': 'a'}], "lacks 'images' with id and file_name, or 'annotations'"),
            ({'images': [{'id': 1}, 'a.jpg']}, "lacks 'images' with id and file_name"),
            ({'images': [{'id': 1, 'file_name': 'a.jpg'}], 'annotations': [{'image_id': 1}]}, 'image_id and caption'),
        ],
    )
    def test_another_json_file_is_rejected(self, content: object, message: str, root: Path) -> None:
        write_json(root / 'annotations' / 'captions_train2014.json', content)
        self.check_refused(root, message)

    def test_an_incomplete_download_is_rejected(self, root: Path) -> None:
        file = root / 'annotations' / 'captions_train2014.json'
        file.write_text(file.read_text()[:-300])
        self.check_refused(root, r'captions_train2014\.json is not valid JSON: .*; download it again')

    def test_an_unknown_year_or_choice_of_captions_is_rejected(self) -> None:
        self.check_refused(Path(), r'data\.year=2015 must be 2014 or 2017', year=2015)
        self.check_refused(Path(), r"data\.captions='two' must be one or all", captions='two')


def test_captions_of_unlisted_images_come_last(tmp_path: Path) -> None:
    file = write_coco(tmp_path, {2: ['b'], 1: ['a']}, strays={5: ['c', 'd']})
    listed = [(coco_name(2, 'train', 2014), ['b']), (coco_name(1, 'train', 2014), ['a'])]
    assert list(read_coco(file, 'x')) == [*listed, (None, ['c', 'd'])]


def test_setup_builds_batches(root: Path) -> None:
    module = COCO(str(root), cache_dir=str(root / 'cache'), batch_size=2, image_size=8, context_length=8)
    module.setup('fit')
    assert len(module.table) == 4 and module.steps_per_epoch == 2
    assert module.heldout is not None and len(module.heldout) == 2
