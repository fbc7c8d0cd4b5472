from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datamodules.rows.table import PairTable
from datamodules.text.caption_groups import AnnotatedImage, group_captions
from datamodules.visual_genome import VisualGenome, read_visual_genome
from tests.helpers.json_mutations import mutated_json
from tests.helpers.mutations import assert_one_sentence, mutations
from tests.helpers.picture_files import number_of
from tests.helpers.published import write_json, write_visual_genome

PHRASES = {number: [f'photo {number} region {place}' for place in range(9)] for number in (1, 2, 3, 4, 8, 11)}


def numbers(table: PairTable) -> list[int]:
    """Numbers of the pictures; asserts that every region of the captions is of the same."""
    found = [number_of(table.open(row)) for row in range(len(table))]
    said = [{int(region.split()[1]) for region in caption.split(', ')} for caption in table.caption.to_pylist()]
    assert said == [{number} for number in found]
    return found


def build_genome(root: Path, **arguments: Any) -> VisualGenome:
    return VisualGenome(str(root), cache_dir=str(root / 'cache'), **{'heldout_images': 0} | arguments)


class TestPublished:
    def test_an_image_in_either_folder_is_a_pair(self, tmp_path: Path) -> None:
        write_visual_genome(tmp_path, PHRASES)
        table = build_genome(tmp_path).load_table()
        assert numbers(table) == list(PHRASES)
        assert table.image.to_pylist()[:2] == ['VG_100K_2/1.jpg', 'VG_100K/2.jpg']

    def test_a_caption_joins_five_regions_in_their_order(self, tmp_path: Path) -> None:
        write_visual_genome(tmp_path, PHRASES)
        for caption in build_genome(tmp_path).load_table().caption.to_pylist():
            regions = caption.split(', ')
            assert len(regions) == 5 and regions == sorted(set(regions))

    def test_a_caption_has_the_requested_regions_as_far_as_they_exist(self, tmp_path: Path) -> None:
        write_visual_genome(tmp_path, {1: ['photo 1 a', ' photo 1 b '], 2: PHRASES[2]})
        captions = build_genome(tmp_path, regions=3).load_table().caption.to_pylist()
        assert captions[0] == 'photo 1 a, photo 1 b' and len(captions[1].split(', ')) == 3

    def test_the_region_seed_draws_the_regions(self, tmp_path: Path) -> None:
        write_visual_genome(tmp_path, PHRASES)
        draws = [
            str(build_genome(tmp_path, region_seed=s, seed=i).load_table().caption) for i, s in enumerate((0, 0, 1))
        ]
        assert draws[0] == draws[1] != draws[2]

    def test_the_files_are_read_once_for_all_draws(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_visual_genome(tmp_path, PHRASES)
        first = build_genome(tmp_path).load_table()

        def read(regions: Path, images: Path, source: str) -> Iterator[AnnotatedImage]:
            raise AssertionError('read again')

        monkeypatch.setattr('datamodules.visual_genome.read_visual_genome', read)
        assert build_genome(tmp_path).load_table().fingerprint == first.fingerprint
        assert len(build_genome(tmp_path, regions=2, region_seed=1).load_table()) == len(first)

    def test_one_image_folder_is_enough(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        write_visual_genome(tmp_path, PHRASES)
        for image in (tmp_path / 'VG_100K_2').iterdir():
            image.unlink()
        (tmp_path / 'VG_100K_2').rmdir()
        with caplog.at_level(logging.WARNING):
            assert numbers(build_genome(tmp_path).load_table()) == [2, 4, 8]
        assert 'has only VG_100K, with half of the images' in caplog.text
        assert '27 of 54 captions belong to images that do not exist; left out' in caplog.text

    def test_all_images_may_be_in_one_folder(self, tmp_path: Path) -> None:
        write_visual_genome(tmp_path, PHRASES)
        for image in list((tmp_path / 'VG_100K_2').iterdir()):
            image.rename(tmp_path / 'VG_100K' / image.name)
        assert numbers(build_genome(tmp_path).load_table()) == list(PHRASES)


class TestHeldout:
    def test_every_image_is_either_trained_on_or_held_out(self, tmp_path: Path) -> None:
        write_visual_genome(tmp_path, PHRASES)
        module = build_genome(tmp_path, heldout_images=2)
        heldout = module.load_heldout()
        assert heldout is not None and len(heldout) == 2
        train, others = numbers(module.load_table()), numbers(heldout)
        assert sorted(train + others) == sorted(PHRASES)
        assert train == [number for number in PHRASES if number not in others]

    def test_heldout_images_depend_on_their_seed(self, tmp_path: Path) -> None:
        write_visual_genome(tmp_path, PHRASES)
        draws = [
            tuple(numbers(build_genome(tmp_path, heldout_images=3, heldout_seed=s).load_table())) for s in (0, 0, 1, 2)
        ]
        assert draws[0] == draws[1] and len(set(draws)) > 1

    def test_nothing_is_held_out_at_0(self, tmp_path: Path) -> None:
        write_visual_genome(tmp_path, PHRASES)
        assert build_genome(tmp_path).load_heldout() is None


def test_quirks_are_handled_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    phrases = {1: ['photo 1 a', 'photo 1 a ', 'photo 1\nb', ' '], 2: ['photo 2'], 3: ['photo 3'], 5: []}
    write_visual_genome(tmp_path, phrases, unknown=[2], absent=[3])
    with caplog.at_level(logging.WARNING):
        table = build_genome(tmp_path).load_table()
    assert table.caption.to_pylist() == ['photo 1 a, photo 1 b']
    source = f"data.root='{tmp_path}': region_descriptions.json"
    assert caplog.messages == [
        f'{source}: 2 of 6 captions belong to images that do not exist; left out',
        f'{source}: 1 of 4 images have no caption; left out',
        f'{source}: 1 of 6 captions are empty; left out',
        f'{source}: 1 of 6 captions repeat another one of the same image',
        f'{source}: 1 of 6 captions contain a line break; replaced by a space',
    ]


def test_entries_of_other_kinds_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write_visual_genome(tmp_path, {1: ['photo 1 a'], 2: ['photo 2 a']})
    regions, images = json.loads(file.read_text()), json.loads((tmp_path / 'image_data.json').read_text())
    regions[0]['id'] = '1'
    regions[1]['regions'] += [{'phrase': None}, {'phrase': ['photo']}, 'photo 2 b']
    write_json(file, [*regions, None, {'id': 2.0, 'regions': [{'phrase': 'photo 2 again'}]}, {'regions': 'none'}])
    write_json(tmp_path / 'image_data.json', [*images, images[0], {'image_id': 5}, {'url': 'a/b.jpg'}, 'c.jpg'])
    with caplog.at_level(logging.WARNING):
        table = build_genome(tmp_path).load_table()
    assert table.caption.to_pylist() == ['photo 1 a', 'photo 2 a']
    source = f"data.root='{tmp_path}': region_descriptions.json"
    assert caplog.messages == [
        f'{source}: 1 of 6 captions belong to images that do not exist; left out',
        f'{source}: 6 of 9 images lack a name or number, or have that of another; left out',
        f'{source}: 3 of 6 annotations have no caption that is text; left out',
    ]


def test_mutated_files_end_in_a_sentence(tmp_path: Path) -> None:
    regions = write_visual_genome(tmp_path, {1: ['photo 1 a', 'b "c"'], 2: ['photo 2 a']})
    images = tmp_path / 'image_data.json'
    for file in (regions, images):
        good = file.read_bytes()
        for data in (*mutations(good, 30), *mutated_json(json.loads(good), 60)):
            file.write_bytes(data)
            with assert_one_sentence():
                list(group_captions(read_visual_genome(regions, images, 'x')))
        file.write_bytes(good)


class TestBadInput:
    def check_refused(self, root: Path, message: str, **arguments: Any) -> None:
        with pytest.raises(ValueError, match=message) as error:
            build_genome(root, **arguments).load_table()
        assert '\n' not in str(error.value) and str(error.value).startswith('data.')

    @pytest.mark.parametrize('name', ['region_descriptions.json', 'image_data.json'])
    def test_a_missing_file_is_named(self, name: str, tmp_path: Path) -> None:
        write_visual_genome(tmp_path, PHRASES)
        (tmp_path / name).unlink()
        self.check_refused(tmp_path, rf'has no {name}: unpack {name}\.zip there')

    def test_missing_images_are_reported(self, tmp_path: Path) -> None:
        self.check_refused(tmp_path / 'absent', r"data\.root='.*absent' does not exist")
        write_visual_genome(tmp_path, PHRASES, absent=list(PHRASES))
        self.check_refused(tmp_path, r'has neither VG_100K nor VG_100K_2: unpack images\.zip there')
        (tmp_path / 'VG_100K').mkdir()
        self.check_refused(
            tmp_path, "none of its 6 images is in '.*VG_100K', where '1.jpg' should be: unpack the images"
        )

    @pytest.mark.parametrize(
        ('name', 'content', 'message'),
        [
            ('region_descriptions.json', [{'id': 1}], 'lacks regions with a phrase'),
            ('region_descriptions.json', [{'id': 1, 'regions': [{'x': 0}]}], 'lacks regions with a phrase'),
            ('image_data.json', [{'image_id': 1}, 'a'], 'image_data.json lacks images with image_id and url'),
        ],
    )
    def test_another_json_file_is_rejected(self, name: str, content: object, message: str, tmp_path: Path) -> None:
        write_visual_genome(tmp_path, PHRASES)
        write_json(tmp_path / name, content)
        self.check_refused(tmp_path, message)

    def test_an_incomplete_download_is_rejected(self, tmp_path: Path) -> None:
        file = write_visual_genome(tmp_path, PHRASES)
        file.write_text(json.dumps(json.loads(file.read_text()))[:-30])
        self.check_refused(tmp_path, r'region_descriptions\.json is not valid JSON: .*; download it again')

    def test_numbers_out_of_range_are_rejected(self, tmp_path: Path) -> None:
        write_visual_genome(tmp_path, PHRASES)
        self.check_refused(
            tmp_path, r'data\.heldout_images=6 leaves none of the 6 images to train on', heldout_images=6
        )
        self.check_refused(tmp_path, r'data\.regions=0 must be at least 1', regions=0)
        self.check_refused(tmp_path, r'data\.heldout_images=-1 at least 0', heldout_images=-1)
