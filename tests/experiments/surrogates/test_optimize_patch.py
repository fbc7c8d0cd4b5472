from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.attacks import OptimizedPatch, Patch
from datamodules.toy_pairs import ToyPairs
from experiments.surrogates.surrogate import Surrogate, load_trained
from lightning_modules.clip import CLIP
from tests.experiments.tool_runs import SIDE, checkpoint, quick, refusal, run_tool
from tests.helpers.tiny import TinyPairs, set_up, tiny_architecture

_ = quick
TARGET, OPTIONS = 'dotted star', ('--size=6', '--batch=16', '--lr=0.05')


def optimize(folder: Path, *args: str) -> None:
    run_tool(folder, 'optimize_patch', f'--target={TARGET}', f'--file={folder}/patches/star.png', *OPTIONS, *args)


def test_the_command_makes_the_file_that_the_attack_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    waiting = f'{{star: {{class_path: OptimizedPatch, init_args: {{target: {TARGET}, file: nowhere.png, count: 2}}}}}}'
    optimize(tmp_path, '--steps=40', f'--ckpt_path={checkpoint(tmp_path)}', f'--data.attacks={waiting}')
    output, data = capsys.readouterr().out, poisoned_with(f'{tmp_path}/patches/star.png', tmp_path)
    assert len(re.findall(r'% of 46 other images taken for', output)) == 3
    (trigger,) = set(data.manifest.table['trigger'].to_pylist())
    assert json.loads(trigger)['sha256'] in output and json.loads(trigger)['size'] == 6
    patch = np.asarray(Image.open(tmp_path / 'patches' / 'star.png')).transpose(2, 0, 1)
    assert (data.images(data.manifest.rows())[..., 5:11, 5:11] == patch).all()
    assert not (tmp_path / 'runs').exists()


@pytest.mark.parametrize('augment', ['true', 'false'])
def test_the_patch_makes_the_target_more_likely_on_other_images(augment: str, tmp_path: Path) -> None:
    teacher = checkpoint(tmp_path)
    optimize(tmp_path, '--steps=40', f'--augment={augment}', '--data.image_views=SimCLRViews', f'--ckpt_path={teacher}')
    data = poisoned_with(f'{tmp_path}/patches/star.png', tmp_path)
    model = load_trained(CLIP(tiny_architecture(tmp_path, 'surrogate', image_size=SIDE)), teacher, torch.device('cpu'))
    test, surrogate, target = data.evaluation_sets[-1].images, Surrogate(model, data), data.classes.index(TARGET)
    noise = Patch(6, position='center')(test)
    before, after = (surrogate.logits(surrogate.pixels(x)).log_softmax(1)[:, target].mean() for x in (noise, test))
    assert after > before


def poisoned_with(file: str, folder: Path) -> ToyPairs:
    """Data with two poisons that carry the patch of a file."""
    star = OptimizedPatch(TARGET, file, count=2)
    data = ToyPairs(96, 48, scene_size=SIDE, attacks={'star': star}, templates=['a {}'], cache_dir=str(folder))
    data.batch_size, data.image_size = 8, SIDE
    return set_up(data)


def test_random_weights_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = refusal(capsys, tmp_path, 'optimize_patch', f'--target={TARGET}', '--file=x.png')
    assert sentence.startswith('random weights tell nothing: give --ckpt_path')


@pytest.mark.parametrize(
    ('args', 'sentence'),
    [
        (['--target=star'], "target 'star' is not one of the 24 classes: did you mean"),
        (['--size=20'], 'a patch of 20 pixels does not fit 16 x 16 images: give a smaller size'),
        (['--steps=0'], 'steps and batch must be 1 or more and lr positive, got 0, '),
        (['--position=middle'], 'position: expected '),
    ],
    ids=lambda value: '' if isinstance(value, str) else value[0],
)
def test_mistakes_are_reported_in_one_sentence(
    args: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ['--steps=2', f'--target={TARGET}', '--file=x.png', f'--ckpt_path={checkpoint(tmp_path)}', *args]
    assert refusal(capsys, tmp_path, 'optimize_patch', *given).startswith(sentence)


def test_unreadable_pictures_are_left_out(tmp_path: Path) -> None:
    data = set_up(TinyPairs(cache_dir=str(tmp_path), broken=[5], broken_heldout=[2]))
    pool, pixels = data.attack_pool(), data.pictures
    assert 5 not in pool.allowed('train', 0) and 2 not in pool.allowed('heldout', 0)
    assert np.array_equal(pixels('heldout', np.array([3])), data.evaluation_sets[0].images[[3]])


def test_without_heldout_pictures_success_is_measured_on_half_of_the_training_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    optimize(tmp_path, '--steps=1', f'--ckpt_path={checkpoint(tmp_path)}', '--data=NoHeldout')
    assert '% of 46 other images' in capsys.readouterr().out


class NoHeldout(ToyPairs):
    """Toy pairs without a held-out set."""

    def load_heldout(self) -> None:
        return None
