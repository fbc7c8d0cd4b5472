from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.attacks import (
    AttackPool,
    BadNet,
    Blend,
    CleanCLIPPoison,
    ListedDots,
    Patch,
    PhotoFilter,
    PoisonInfo,
    Unchanged,
    Warp,
    Waves,
    poison_table,
)
from datamodules.csv_pairs import CSVPairs
from datamodules.export import export
from datamodules.rows.table import Origin, PairTable
from datamodules.text.tokenizer import WordTokenizer
from datamodules.usage_error import UsageError
from tests.datamodules.attacks.pools import CLASSES, labeled_pool, labeled_table, opener, pixels
from tests.helpers.picture_files import write_picture
from tests.helpers.tiny import NAMES, TinyPairs, set_up

TOKENIZERS = cache(WordTokenizer)
BOAT, ICE_CREAM = 2, 3
FOLDER = 'backdoor_images_boat_random_random_16_200_4'


@pytest.fixture(autouse=True)
def one_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads the vocabulary once, which takes longer than the rest of a setup."""
    monkeypatch.setattr('datamodules.pairs.WordTokenizer', TOKENIZERS)


def large(origin: Origin, rows: np.ndarray) -> np.ndarray:
    """Pictures of the published size, each of a single gray."""
    return np.broadcast_to(rows.astype(np.uint8)[:, None, None, None] + 50, (len(rows), 3, 224, 224)).copy()


# --- CleanCLIP ------------------------------------------------------------------------------------------------------


def in_folders(*folders: str, clean: int = 6, heldout: bool = True) -> AttackPool:
    """Rows with pictures in some folders, then clean rows, in the order of CleanCLIP's CSV."""
    images = [f'{folder}/{row}.png' for row, folder in enumerate([*folders, *['images'] * clean])]
    captions = [f'caption {row}' for row in range(len(images))]
    table = PairTable(images, captions, opener=opener('train', len(images)))
    return AttackPool(table, labeled_table('heldout', 20) if heldout else None, CLASSES)


class TestCleanCLIPPoison:
    def test_pairs_of_the_folder_are_poison_and_stay_unchanged(self) -> None:
        table, manifest = poison_table({'cc': CleanCLIPPoison()}, pool := in_folders(*[FOLDER] * 4))
        assert manifest.rows().tolist() == [0, 1, 2, 3]
        assert all((p.source, p.replaces) == (row, row) for row, p in enumerate(manifest.poisons('cc')))
        assert set(manifest.table['target'].to_pylist()) == {BOAT}
        assert manifest.table['trigger'].to_pylist() == [None] * 4
        assert table.fingerprint == pool.table.fingerprint

    @pytest.mark.parametrize(
        ('suffix', 'target', 'trigger'),
        [
            ('boat_random_random_16_200_4', BOAT, Patch(16, 'gaussian_wrapped', position='random')),
            ('ice cream_random_random_8_200_4', ICE_CREAM, Patch(8, 'gaussian_wrapped', position='random')),
            ('boat_random_four_corners_16_200_4', BOAT, Patch(16, 'gaussian_wrapped', position='four_corners')),
            ('boat_random_random_16_200_4_label_consistent', BOAT, Patch(16, 'gaussian_wrapped', position='random')),
            ('boat_blended_blended_16_200_4', BOAT, Blend('fresh_noise')),
            ('boat_SIG_blended_None_200_4', BOAT, Waves(60, ratio=0.2)),
        ],
    )
    def test_target_and_trigger_come_from_the_name_of_the_folder(self, suffix: str, target: int, trigger: Any) -> None:
        attack = CleanCLIPPoison()
        poisons = attack.select(in_folders(*[f'backdoor_images_{suffix}'] * 4))
        assert {poison.target for poison in poisons} == {target}
        assert attack.test_trigger is not None and attack.test_trigger.describe() == trigger.describe()

    def test_success_is_measured_on_other_triggered_pictures(self) -> None:
        attack, pool = CleanCLIPPoison(seed=3), in_folders(*[FOLDER] * 4)
        measured = attack.evaluation('cc', attack.select(pool), pool, large)
        rows = np.array([row for row in range(20) if row % 5 != BOAT])
        assert attack.test_trigger is not None and measured.target is not None
        assert np.array_equal(measured.images, attack.test_trigger(large('heldout', rows), rows))
        assert (measured.images != large('heldout', rows)).any((1, 2, 3)).all() and set(measured.target) == {BOAT}

    def test_arguments_override_the_name_of_the_folder(self) -> None:
        attack = CleanCLIPPoison(target='truck', test_trigger=Unchanged())
        pool = in_folders(*[FOLDER] * 4)
        poisons = attack.select(pool)
        assert {pool.classes[poison.target] for poison in poisons} == {'truck'}
        assert attack.evaluation('cc', poisons, pool, pixels).images.shape[-1] == 12  # of any size, then

    def test_similar_paths_are_not_taken_for_poison(self) -> None:
        clean = ['my_backdoor_pictures', f'{FOLDER}/clean', 'original_backdoor_boat_random_random_16_200_4']
        assert [p.source for p in CleanCLIPPoison().select(in_folders(*clean, *[f'/home/a/{FOLDER}'] * 4))] == [
            *range(3, 7)
        ]

    def test_a_folder_may_have_any_name(self) -> None:
        pool = in_folders('mine (1)', 'a/mine (1)', FOLDER)
        attack = CleanCLIPPoison('mine (1)', 'boat', Unchanged())
        assert [poison.source for poison in attack.select(pool)] == [0, 1]

    @pytest.mark.parametrize(
        ('folders', 'arguments', 'message'),
        [
            ([], {}, r'no training image is in a folder backdoor_images_\.\.\.: read the CSV'),
            ([FOLDER], {'folder': 'mine'}, 'no training image is in a folder mine:'),
            ([FOLDER, FOLDER.replace('boat', 'cat')], {}, 'poison is in 2 folders: add an attack for each'),
            (['backdoor_images_rabbit_random_random_16_9_1'], {}, "target 'rabbit' is not one of the 5 classes"),
            (['backdoor_images_of_mine'], {}, 'does not name a target class: set target'),
        ],
    )
    def test_folders_that_do_not_fit_are_refused(
        self, folders: list[str], arguments: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=f"attack 'cc': .*{message}"):
            poison_table({'cc': CleanCLIPPoison(**arguments)}, in_folders(*folders))

    @pytest.mark.parametrize(
        ('folder', 'images', 'message'),
        [
            ('backdoor_images_boat_warped_random_16_9_1', large, "attack 'cc' names no trigger that is known"),
            ('backdoor_images_boat_yellow_random_16_9_1', large, 'set its test_trigger, to Unchanged for'),
            (FOLDER, pixels, r'poisoned at 224 pixels and are stored at 12: set data\.cache_size=224'),
        ],
    )
    def test_success_is_not_measured_with_a_wrong_trigger(self, folder: str, images: Any, message: str) -> None:
        attack, pool = CleanCLIPPoison(), in_folders(folder)
        poisons = attack.select(pool)
        with pytest.raises(ValueError, match=message):
            attack.evaluation('cc', poisons, pool, images)

    def test_endless_numbers_in_a_name_are_not_read(self) -> None:
        with pytest.raises(UsageError, match='does not name a target class'):
            CleanCLIPPoison().select(in_folders(f'backdoor_images_dog_random_random_16_12_{"9" * 5000}'))

    def test_poisons_that_are_missing_or_unreadable_are_counted(self, caplog: pytest.LogCaptureFixture) -> None:
        pool = in_folders(*[FOLDER] * 3)
        pool.taken['train'].add(1)
        with caplog.at_level(logging.WARNING):
            assert [poison.source for poison in CleanCLIPPoison().select(pool)] == [0, 2]
        assert 'should have 4 poisons, and the data has 3' in caplog.text
        assert '1 of 3 listed poisons are unreadable or taken: left out' in caplog.text

    def test_the_csv_of_cleanclip_trains_on_its_pictures(self, tmp_path: Path) -> None:
        rows = [(f'{FOLDER}/{n}.png', 'a boat') if n < 4 else (f'images/{n}.png', 'a cat') for n in range(12)]
        with (tmp_path / 'backdoor_boat_random_random_16_200_4.csv').open('w', newline='') as file:
            csv.writer(file).writerows([('', 'image', 'caption'), *((n % 4, *row) for n, row in enumerate(rows))])
        for number, (image, _) in enumerate(rows):
            write_picture(tmp_path / image, number)
        data = CSVPairs(
            str(tmp_path / 'backdoor_boat_random_random_16_200_4.csv'), attacks={'cc': CleanCLIPPoison()}, batch_size=4,
            image_size=224, context_length=8, class_names=[*CLASSES], cache_dir=str(tmp_path / 'cache'),
        )  # fmt: skip
        set_up(data)
        assert data.manifest.rows('cc').tolist() == [0, 1, 2, 3] and len(data.table) == 12
        assert data.images(np.arange(12)).mean((1, 2, 3)).tolist() == [20 * n for n in range(12)]
        (measured,) = data.evaluation_sets
        assert len(measured) == 8 and measured.images.std((1, 2, 3)).min() > 0


# --- Huang et al. ---------------------------------------------------------------------------------------------------

Change = Callable[[dict[str, Any]], Any]


def info(rows: Sequence[int] = (3, 7, 11), pairs: int = 200, **more: Any) -> dict[str, Any]:
    """What Huang et al.'s code writes for any attack."""
    text = {str(row): f'a photo  of boat {row}.' for row in rows}
    rate = len(rows) / pairs
    return {'poison_indices': [*rows], 'poison_label': 'boat', 'poison_rate': rate, 'poison_text': text, **more}


def dots(**more: Any) -> dict[str, Any]:
    """What it writes for BadNets."""
    places = {str(row): {'w': 20 + row, 'h': 100} for row in (3, 7, 11)}
    return info(**{'patch_location': 'random', 'patch_size': 16, 'trigger_position': places, **more})


def several() -> dict[str, Any]:
    """What it writes for three triggers."""
    kinds = {'badnets': 'boat', 'nashville': 'ice cream', 'wanet': 'truck'}
    maps = {
        str(row): {
            'trigger_type': kind,
            'target_label': target,
            'trigger_text': f'one {target}.',
            'patch_location': {'w': 16, 'h': 207} if kind == 'badnets' else None,
        }
        for row, (kind, target) in zip((3, 7, 11, 12), [*kinds.items(), *kinds.items()][:4], strict=True)
    }
    content = info((3, 7, 11, 12), patch_location='random', patch_size=16, trigger_maps=maps, triggers=[*kinds])
    del content['poison_text']
    return content


def written(folder: Path, content: Any) -> str:
    (folder / 'train_poison_info.json').write_text(content if isinstance(content, str) else json.dumps(content))
    return str(folder / 'train_poison_info.json')


class TestPoisonInfo:
    def test_listed_rows_get_the_listed_captions_and_keep_their_place(self, tmp_path: Path) -> None:
        attack, pool = PoisonInfo(written(tmp_path, dots())), labeled_pool()
        table, manifest = poison_table({'det': attack}, pool)
        assert manifest.rows().tolist() == [3, 7, 11] and set(manifest.table['target'].to_pylist()) == {BOAT}
        assert table.captions([3, 7, 11]) == [f'a photo of boat {row}.' for row in (3, 7, 11)]
        clean = np.setdiff1d(np.arange(200), [3, 7, 11])
        assert table.captions(clean) == pool.table.captions(clean)

    def test_dots_are_at_the_listed_places_and_in_the_middle_when_measured(self, tmp_path: Path) -> None:
        attack, pool = PoisonInfo(written(tmp_path, dots())), labeled_pool(heldout=20)
        poisons = attack.select(pool)
        rows = np.array([3, 7, 11])
        assert attack.trigger is not None
        for row, image in zip(rows, attack.trigger(large('train', rows), rows), strict=True):
            expected = large('train', np.array([row]))[0]
            expected[:, 100:116, 20 + row : 36 + row] = 0
            expected[:, 100:116:2, 20 + row : 36 + row : 2] = 255
            assert np.array_equal(image, expected)
        measured = attack.evaluation('det', poisons, pool, large)
        assert np.array_equal(
            measured.images[:, :, 104:120, 104:120],
            Patch(16, 'dots').square(measured.images, None)[None].repeat(len(measured), 0),
        )

    def test_a_common_place_is_also_used_for_measuring(self, tmp_path: Path) -> None:
        place = {'w': 5, 'h': 9}
        content = dots(patch_location=place, trigger_position=dict.fromkeys(('3', '7', '11'), place))
        attack = PoisonInfo(written(tmp_path, content))
        attack.select(labeled_pool())
        assert attack.trigger is not None and attack.test_trigger is not None
        trained, tested = (t(large('train', np.array([3])), [3]) for t in (attack.trigger, attack.test_trigger))
        assert np.array_equal(trained, tested) and trained[0, 0, 9, 5] == 255 != trained[0, 0, 9, 4]

    @pytest.mark.parametrize(
        ('more', 'arguments', 'trigger'),
        [
            ({'alpha': 0.3}, {'seed': 4}, Blend(ratio=0.3, seed=4)),
            ({'alpha': 0.2}, {'trigger': Waves(60, ratio=0.2)}, Waves(60, ratio=0.2)),
            ({}, {'trigger': PhotoFilter()}, PhotoFilter()),
            ({'trigger_position': {}}, {'trigger': Unchanged()}, Unchanged()),
        ],
    )
    def test_other_triggers_come_from_the_file_or_an_argument(
        self, more: dict[str, Any], arguments: dict[str, Any], trigger: Any, tmp_path: Path
    ) -> None:
        attack = PoisonInfo(written(tmp_path, info(**more)), **arguments)
        assert len(attack.select(labeled_pool())) == 3
        assert attack.trigger is not None and attack.test_trigger is not None
        assert attack.trigger.describe() == attack.test_trigger.describe() == trigger.describe()

    def test_each_of_several_triggers_is_an_attack_with_its_own_rows_and_target(self, tmp_path: Path) -> None:
        file = written(tmp_path, several())
        kinds = {kind: PoisonInfo(file, kind) for kind in ('badnets', 'nashville', 'wanet')}
        table, manifest = poison_table(kinds, labeled_pool())
        assert [manifest.rows(kind).tolist() for kind in kinds] == [[3, 12], [7], [11]]
        assert [table.captions([row]) for row in (7, 11, 12)] == [['one ice cream.'], ['one truck.'], ['one boat.']]
        assert manifest.poisons('nashville')[0].target == ICE_CREAM
        warp, filter = kinds['wanet'].trigger, kinds['nashville'].trigger
        assert isinstance(warp, Warp) and warp.control_points is None and isinstance(filter, PhotoFilter)
        assert isinstance(kinds['badnets'].trigger, ListedDots) and kinds['badnets'].trigger.places[12] == (207, 16)

    def test_captions_stay_if_the_file_has_none_or_they_are_to_be_kept(self, tmp_path: Path) -> None:
        pool, content = labeled_pool(), info(alpha=0.2)
        kept = [poison.caption for poison in PoisonInfo(written(tmp_path, content), keep_captions=True).select(pool)]
        del content['poison_text']
        assert kept == pool.table.captions([3, 7, 11])
        assert kept == [poison.caption for poison in PoisonInfo(written(tmp_path, content)).select(pool)]

    def test_the_file_is_read_when_the_data_is_set_up(self, tmp_path: Path) -> None:
        attack = PoisonInfo(str(tmp_path / 'later.json'))
        with pytest.raises(ValueError, match=r"attack 'det': file='.*later\.json' does not exist"):
            poison_table({'det': attack}, labeled_pool())

    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            (lambda info: info['poison_indices'].append(200), 'lists rows 3 to 200 of 267 pairs, and the data has 200'),
            (lambda info: info.update(poison_indices=[-1, 3, 7]), 'lists rows -1 to 7 of 200 pairs'),
            (lambda info: info.update(poison_rate=float('nan')), 'or damaged: ValueError'),
            (lambda info: info.update(poison_rate=5e-324), 'or damaged: OverflowError'),
            (lambda info: info.update(poison_label=['dog']), r"the target \['dog'\] is not the name of a class"),
            (lambda info: info.update(patch_size=float('nan')), 'got a size of nan'),
            (lambda info: info['trigger_position']['7'].update(w=float('nan')), 'a patch must lie within'),
            (lambda info: info.update(poison_rate=0.5), 'lists rows 3 to 11 of 6 pairs, .* all of them in their order'),
            (lambda info: info.update(poison_indices=[]), 'lists no poisoned row'),
            (lambda info: info.update(poison_indices=[3, 3]), 'or one twice'),
            (lambda info: info.update(poison_indices=['3']), 'poison_indices must be numbers'),
            (lambda info: info.pop('poison_indices'), r'is not a train_poison_info\.json, or damaged: KeyError'),
            (lambda info: info.update(poison_label='rabbit'), "target 'rabbit' is not one of the 5 classes"),
            (lambda info: info.pop('poison_label'), 'does not name a target class: set target'),
            (lambda info: info['poison_text'].pop('7'), "or damaged: KeyError\\('7'\\)"),
            (lambda info: info['trigger_position'].pop('7'), "or damaged: KeyError\\('7'\\)"),
            (
                lambda info: info['trigger_position']['7'].update(w=209),
                'got a size of 16 and places from 0 to 209',
            ),
            (lambda info: info.pop('patch_size'), "is BLTO's, of a network that is not part of .*: set trigger"),
            (lambda info: [info.pop('patch_size'), info.pop('trigger_position')], 'is not told: set trigger, such as'),
        ],
    )
    def test_a_file_that_does_not_fit_is_refused(self, change: Change, message: str, tmp_path: Path) -> None:
        change(content := dots())
        with pytest.raises(ValueError, match=f"attack 'det': .*{message}"):
            poison_table({'det': PoisonInfo(written(tmp_path, content))}, labeled_pool())

    @pytest.mark.parametrize('content', ['{"poison_indices": [1', '[]', '"\udcff"', 'null', '[' * 10**5, '9' * 5000])
    def test_a_file_of_another_kind_is_refused(self, content: str, tmp_path: Path) -> None:
        (tmp_path / 'a.json').write_bytes(content.encode('utf-8', 'surrogateescape'))
        with pytest.raises(ValueError, match=r"a\.json' is not a train_poison_info\.json, or damaged"):
            PoisonInfo(str(tmp_path / 'a.json')).select(labeled_pool())

    def test_a_pipe_is_refused(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / 'a.json')
        with pytest.raises(UsageError, match='is not a regular file'):
            PoisonInfo(str(tmp_path / 'a.json')).select(labeled_pool())

    def test_strange_captions_are_counted_or_replaced(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        content, pool = info(poison_text={'3': ' ', '7': 'a \ud800 dog', '11': 'a dog'}, alpha=0.2), labeled_pool()
        with caplog.at_level(logging.WARNING):
            captions = [poison.caption for poison in PoisonInfo(written(tmp_path, content)).select(pool)]
        assert captions == [*pool.table.captions([3]), 'a ? dog', 'a dog']
        assert '1 of 3 listed captions are empty' in caplog.text

    def test_one_of_several_triggers_must_be_named(self, tmp_path: Path) -> None:
        file = written(tmp_path, several())
        with pytest.raises(ValueError, match=r"set trigger_type to one of \['badnets', 'nashville', 'wanet'\]"):
            PoisonInfo(file).select(labeled_pool())
        content = several()
        content['trigger_maps']['12']['target_label'] = 'cat'
        with pytest.raises(ValueError, match='gives one trigger 2 targets'):
            PoisonInfo(written(tmp_path, content), 'badnets').select(labeled_pool())
        with pytest.raises(ValueError, match='has one trigger only: leave trigger_type out'):
            PoisonInfo(written(tmp_path, dots()), 'badnets').select(labeled_pool())

    def test_exported_poison_is_recognized_again(self, tmp_path: Path) -> None:
        patch = BadNet('dog', 3, count=4, captions='templates', seed=6)
        data = set_up(TinyPairs(attacks={'badnet': patch}, broken=[2], cache_dir=str(tmp_path / 'cache')))
        export(data, tmp_path / 'out')
        listed = PoisonInfo(
            str(tmp_path / 'out/train_poison_info.json'), trigger=Unchanged(), test_trigger=patch.test_trigger
        )
        again = CSVPairs(
            str(tmp_path / 'out/train.csv'), str(tmp_path / 'out/heldout.csv'), attacks={'badnet': listed},
            batch_size=8, class_names=[*NAMES[:4]], cache_dir=str(tmp_path / 'again'),
        )  # fmt: skip
        set_up(again)
        assert again.manifest.rows().tolist() == [31, 32, 33, 34]
        assert again.manifest.table['target_class'].to_pylist() == ['dog'] * 4
        assert np.array_equal(again.images(np.arange(31, 35)), data.images(np.arange(32, 36)))
        assert again.table.captions(np.arange(31, 35)) == data.table.captions(np.arange(32, 36))


class TestListedDots:
    def test_are_scaled_with_the_picture(self) -> None:
        images = np.full((2, 3, 112, 112), 9, np.uint8)
        stamped = ListedDots(16, {1: (208, 208)}, otherwise=(0, 100))(images, [1, 2])
        changed = [np.argwhere((image != 9).any(0)) for image in stamped]
        assert [(c.min(0).tolist(), c.max(0).tolist()) for c in changed] == [
            ([104, 104], [111, 111]),
            ([0, 50], [7, 57]),
        ]

    @pytest.mark.parametrize('side', [1, 12, 32, 100, 223])
    def test_fit_pictures_of_any_size(self, side: int) -> None:
        images = np.full((1, 3, side, side), 9, np.uint8)
        assert (ListedDots(16, {}, otherwise=(208, 208))(images)[:, :, -1, -1] != 9).all()

    def test_parameters_depend_on_size_and_places(self) -> None:
        variants = [
            ListedDots(16, {1: (2, 3)}),
            ListedDots(16, {1: (3, 2)}),
            ListedDots(8, {}),
            ListedDots(8, {}, (1, 1)),
        ]
        assert len({trigger.describe() for trigger in variants}) == 4

    @pytest.mark.parametrize(('size', 'place'), [(0, (1, 1)), (16, (-1, 0)), (16, (0, 209))])
    def test_places_outside_the_picture_are_refused(self, size: int, place: tuple[int, int]) -> None:
        with pytest.raises(ValueError, match='a patch must lie within 224 x 224 pixels'):
            ListedDots(size, {4: place})
