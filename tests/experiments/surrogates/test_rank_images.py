from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.attacks import BadNet
from datamodules.rows.table import Origin
from datamodules.toy_pairs import ToyPairs
from experiments.surrogates.rank_images import rank
from experiments.surrogates.surrogate import Surrogate, load_trained
from lightning_modules.clip import CLIP
from tests.experiments.tool_runs import SIDE, checkpoint, quick, refusal, run_tool
from tests.helpers.tiny import TinyPairs, set_up, tiny_architecture

_ = quick
TARGET = 'dotted star'


def command(folder: Path, *args: str) -> list[tuple[str, float]]:
    """Runs ``clipward rank_images`` and returns what it wrote."""
    run_tool(folder, 'rank_images', f'--target={TARGET}', f'--file={folder}/rankings/star.csv', *args)
    return listed(f'{folder}/rankings/star.csv')


def listed(file: str) -> list[tuple[str, float]]:
    with open(file, newline='') as lines:
        return [(line['image'], float(line['similarity'])) for line in csv.DictReader(lines)]


def data(folder: Path, **attacks: BadNet) -> ToyPairs:
    """The data that the command ranks, with attacks."""
    pairs = ToyPairs(96, 48, scene_size=SIDE, attacks={**attacks}, templates=['a {}'], cache_dir=str(folder / 'cache'))
    pairs.batch_size, pairs.image_size = 8, SIDE
    return set_up(pairs)


def surrogate(folder: Path, pairs: TinyPairs) -> Surrogate:
    model = CLIP(tiny_architecture(folder, 'small'))
    model.untrained = False
    return Surrogate(load_trained(model, None, torch.device('cpu')), pairs)


def test_the_command_makes_the_file_whose_first_images_the_attack_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = f'{{star: {{class_path: BadNet, init_args: {{target: {TARGET}, size: 4, ranking: none.csv, count: 2}}}}}}'
    lines = command(tmp_path, f'--ckpt_path={checkpoint(tmp_path)}', f'--data.attacks={waiting}')
    output, ranking = capsys.readouterr().out, f'{tmp_path}/rankings/star.csv'
    assert (
        '48 heldout images, ranked by the surrogate with SHA-256' in output and "2 of them show 'dotted star'" in output
    )
    pairs = data(tmp_path, star=BadNet(TARGET, 4, ranking=ranking, count=5))
    assert pairs.heldout is not None
    images, label = pairs.heldout.image.to_pylist(), pairs.heldout.label
    shown = {images[row] for row in np.flatnonzero(label == pairs.classes.index(TARGET))}
    sources = [images[poison.source] for poison in pairs.manifest.poisons('star')]
    assert len(shown) == 2 and sources == [image for image, _ in lines if image not in shown][:5]
    assert not (tmp_path / 'runs').exists()


def test_images_are_ordered_by_their_similarity_to_the_class(tmp_path: Path) -> None:
    teacher = checkpoint(tmp_path)
    lines, pairs = command(tmp_path, f'--ckpt_path={teacher}'), data(tmp_path)
    model = load_trained(CLIP(tiny_architecture(tmp_path, 'surrogate', image_size=SIDE)), teacher, torch.device('cpu'))
    own = Surrogate(model, pairs)
    expected = (
        own.embed_pictures(pairs.evaluation_sets[0].images) @ own.classifier[pairs.classes.index(TARGET)]
    ).tolist()
    assert pairs.heldout is not None
    by_image = dict(zip(pairs.heldout.image.to_pylist(), expected, strict=True))
    assert len(lines) == len(by_image) == 48
    assert all(similarity == pytest.approx(by_image[image], abs=2e-6) for image, similarity in lines)
    assert lines == sorted(lines, key=lambda line: -line[1])


def test_training_images_can_be_ranked_reproducibly(tmp_path: Path) -> None:
    args = [f'--ckpt_path={checkpoint(tmp_path)}', '--source=train']
    first, again = (command(tmp_path, *args) for _ in range(2))
    assert first == again
    assert {image for image, _ in first} == {*data(tmp_path).source.image.to_pylist()}


def test_unreadable_images_are_left_out(tmp_path: Path) -> None:
    pairs = set_up(TinyPairs(cache_dir=str(tmp_path), broken=[5], broken_heldout=[2, 3], eval_batch_size=5))
    sizes: dict[Origin, int] = {'train': 31, 'heldout': 10}
    for source, size in sizes.items():
        rank(surrogate(tmp_path, pairs), 'dog', source, f'{tmp_path}/{source}.csv')
        assert len(listed(f'{tmp_path}/{source}.csv')) == size
    assert not {'1:2', '1:3'} & {image for image, _ in listed(f'{tmp_path}/heldout.csv')}


def test_the_fix_is_named_if_there_are_no_heldout_images(tmp_path: Path) -> None:
    pairs = set_up(TinyPairs(cache_dir=str(tmp_path), heldout_rows=0))
    with pytest.raises(ValueError, match=r'no held-out images .*: set source: train'):
        rank(surrogate(tmp_path, pairs), 'dog', 'heldout', f'{tmp_path}/x.csv')


@pytest.mark.parametrize(
    ('args', 'sentence'),
    [
        ([f'--target={TARGET}'], 'random weights tell nothing: give --ckpt_path'),
        (['--target=star', '--ckpt_path=...'], "target 'star' is not one of the 24 classes: did you mean"),
        ([f'--target={TARGET}', '--source=test', '--ckpt_path=...'], 'source: expected '),
    ],
    ids=['untrained', 'class', 'source'],
)
def test_mistakes_are_reported_in_one_sentence(
    args: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [arg.replace('...', checkpoint(tmp_path)) for arg in args]
    assert refusal(capsys, tmp_path, 'rank_images', f'--file={tmp_path}/x.csv', *given).startswith(sentence)
    assert not (tmp_path / 'x.csv').exists()
