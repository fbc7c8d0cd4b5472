from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.attacks import LabelConsistent, Patch
from datamodules.attacks.hardened import HardenedPictures
from datamodules.toy_pairs import ToyPairs
from experiments.surrogates.surrogate import Surrogate, load_trained
from lightning_modules.clip import CLIP
from tests.experiments.tool_runs import SIDE, checkpoint, quick, refusal, run_tool
from tests.helpers.tiny import set_up, tiny_architecture

_ = quick
TARGET = 'dotted star'


def attacks(folder: Path, **more: object) -> str:
    """The option for two attacks: a plain one, which takes an image first, and the one that is hardened."""
    own = {'target': TARGET, 'size': 4, 'count': 3, 'source': 'train', 'harden': 'pgd'}
    hardened = {'class_path': 'LabelConsistent', 'init_args': {**own, 'hardened': f'{folder}/hard.npz', **more}}
    first = {'class_path': 'LabelConsistent', 'init_args': {**own, 'count': 1, 'harden': 'none', 'seed': 4}}
    return f'--data.attacks={json.dumps({"first": first, "lc": hardened})}'


def data(folder: Path, **more: object) -> ToyPairs:
    """The data of a run with those attacks."""
    own = {'size': 4, 'source': 'train', 'harden': 'pgd', 'hardened': f'{folder}/hard.npz', 'count': 3, **more}
    both = {
        'first': LabelConsistent(TARGET, 4, count=1, source='train', seed=4),
        'lc': LabelConsistent(TARGET, **own),
    }
    pairs = ToyPairs(96, 48, scene_size=SIDE, attacks=both, templates=['a {}'], cache_dir=str(folder / 'cache'))
    pairs.batch_size, pairs.image_size = 8, SIDE
    return pairs


def test_the_command_makes_the_pictures_that_the_attack_trains_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_tool(tmp_path, 'harden', '--attack=lc', attacks(tmp_path), '--steps=8', f'--ckpt_path={checkpoint(tmp_path)}')
    output = capsys.readouterr().out
    assert re.search(r"3 pictures of attack 'lc', SHA-256 \w{64}\nrecognized .*: [\d.]+% before, [\d.]+% after", output)
    content, pairs = HardenedPictures.load(f'{tmp_path}/hard.npz'), set_up(data(tmp_path))
    poisons = pairs.manifest.poisons('lc')
    assert content.source.tolist() == [poison.source for poison in poisons]
    clean = pairs.images(content.source)
    change = np.abs(content.picture.astype(int) - clean).reshape(3, -1)
    assert (change.max(1) == 8).all() and (change > 0).mean() > 0.9
    assert np.array_equal(pairs.images(pairs.manifest.rows('lc')), Patch(4)(content.picture))
    settings = json.loads(str(content.settings))
    assert (settings['norm'], settings['radius'], settings['step'], settings['steps']) == ('linf', 8.0, 1.5, 8)
    assert len(settings['surrogate']) == 64
    assert not (tmp_path / 'runs').exists()


def test_its_pictures_are_harder_to_recognize(tmp_path: Path) -> None:
    teacher = checkpoint(tmp_path)
    run_tool(tmp_path, 'harden', '--attack=lc', attacks(tmp_path), '--steps=8', f'--ckpt_path={teacher}')
    content, pairs = HardenedPictures.load(f'{tmp_path}/hard.npz'), set_up(data(tmp_path))
    model = load_trained(CLIP(tiny_architecture(tmp_path, 'surrogate', image_size=SIDE)), teacher, torch.device('cpu'))
    surrogate, own = Surrogate(model, pairs), pairs.classes.index(TARGET)
    before, after = (
        surrogate.logits(surrogate.pixels(pictures)).log_softmax(1)[:, own]
        for pictures in (pairs.images(content.source), content.picture)
    )
    assert (after < before).all()


def test_the_l2_norm_of_a_change_can_be_bounded_instead(tmp_path: Path) -> None:
    l2 = ['--norm=l2', '--radius=0.5', '--step=0.2', f'--file={tmp_path}/other.npz']
    run_tool(
        tmp_path, 'harden', '--attack=lc', attacks(tmp_path), '--steps=5', *l2, f'--ckpt_path={checkpoint(tmp_path)}'
    )
    content, pairs = (
        HardenedPictures.load(f'{tmp_path}/other.npz'),
        set_up(data(tmp_path, hardened=f'{tmp_path}/other.npz')),
    )
    change = (content.picture.astype(float) - pairs.images(content.source)) / 255
    assert np.abs(np.linalg.norm(change.reshape(3, -1), axis=1) - 0.5).max() < 0.02  # what rounding adds or takes


def test_a_run_on_other_images_is_refused_with_the_command_to_run(tmp_path: Path) -> None:
    run_tool(tmp_path, 'harden', '--attack=lc', attacks(tmp_path), '--steps=1', f'--ckpt_path={checkpoint(tmp_path)}')
    assert len(set_up(data(tmp_path, count=2)).manifest.rows('lc')) == 2  # some of them will do
    with pytest.raises(ValueError, match=r'lacks 2 of 2 pictures of the attack .* again with clipward harden'):
        set_up(data(tmp_path, source='heldout', count=2))


@pytest.mark.parametrize(
    ('args', 'sentence'),
    [
        (
            ['--attack=first'],
            "attack must name a LabelConsistent with harden: pgd, got 'first'; data.attacks has first, lc",
        ),
        (['--attack=badnet'], "attack must name a LabelConsistent with harden: pgd, got 'badnet'"),
        (['--radius=0'], 'radius and step must be positive and steps 1 or more, got 0'),
        (['--data.attacks.lc.count=0'], "attack 'lc' is switched off: set its rate or count"),
        (['--norm=l1'], 'norm: expected '),
    ],
    ids=lambda value: '' if isinstance(value, str) else value[0],
)
def test_mistakes_are_reported_in_one_sentence(
    args: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ['--attack=lc', attacks(tmp_path), f'--ckpt_path={checkpoint(tmp_path)}', *args]
    assert refusal(capsys, tmp_path, 'harden', *given).startswith(sentence)


def test_random_weights_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = refusal(capsys, tmp_path, 'harden', '--attack=lc', attacks(tmp_path))
    assert sentence.startswith('random weights tell nothing: give --ckpt_path')
