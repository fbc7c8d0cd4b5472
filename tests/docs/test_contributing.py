"""The recipes of CONTRIBUTING.md, each run on tiny data."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.attacks import Backdoor, BadNet
from datamodules.pictures.views import clean_view
from datamodules.rows.partition import DROPPED, RISKY, SAFE
from lightning_modules.clip import CLIP
from lightning_modules.safeclip import SafeCLIP
from tests.docs.snippets import ROOT, configuration, constructed, imported, snippets
from tests.helpers.tiny import IMAGE_SIZE, TinyPairs, set_up, tiny_architecture, trainer

RECIPES = snippets('CONTRIBUTING.md')


def recipe(name: str, folder: Path) -> tuple[ModuleType, dict[str, Any]]:
    """The file of a recipe, imported, and its YAML."""
    return imported(RECIPES[name], name, folder), configuration(RECIPES[f'{name} overlay'])


def attack_of(overlay: dict[str, Any]) -> dict[str, Any]:
    """The only attack of an overlay, with as many poisons as tiny data has room for."""
    (config,) = overlay['data']['init_args']['attacks'].values()
    return {**config, 'init_args': {**config['init_args'], 'rate': 0.1}}


def test_an_attack_of_ones_own_poisons_and_is_measured(tmp_path: Path) -> None:
    module, overlay = recipe('attack', tmp_path)
    attack = constructed(module, attack_of(overlay), size=2)
    data = set_up(TinyPairs(rows=40, attacks={'mine': attack}, cache_dir=str(tmp_path)))
    assert len(data.manifest) == 4
    assert (data.images(data.manifest.rows())[:, :, -2:, -2:] == 128).all()
    assert data.evaluation_sets[-1].name == 'mine'


def test_a_trigger_of_ones_own_goes_into_any_backdoor(tmp_path: Path) -> None:
    module, overlay = recipe('trigger', tmp_path)
    arguments = attack_of(overlay)['init_args']
    attack = Backdoor(**{**arguments, 'trigger': constructed(module, {'init_args': {}, **arguments['trigger']})})
    data = set_up(TinyPairs(rows=40, attacks={'mine': attack}, cache_dir=str(tmp_path)))
    sources = data.manifest.table['source'].to_numpy()
    pictures = data.pictures('heldout', sources)
    np.testing.assert_array_equal(data.images(data.manifest.rows()), 255 - pictures)


def test_a_loss_of_ones_own_trains(tmp_path: Path) -> None:
    module, overlay = recipe('loss', tmp_path)
    model = constructed(module, overlay['model'], architecture=tiny_architecture(tmp_path))
    assert isinstance(model, CLIP)
    run = trainer(max_epochs=1)
    run.fit(model, TinyPairs(cache_dir=str(tmp_path)))
    assert {'train/cross_modal', 'train/uniformity'} <= run.logged_metrics.keys()


def test_a_split_of_ones_own_decides_what_is_trained_on(tmp_path: Path) -> None:
    module, overlay = recipe('split', tmp_path)
    rule = constructed(module, overlay['callbacks']['repartition'])
    model = SafeCLIP(unimodal_epochs=1, architecture=tiny_architecture(tmp_path))
    data = TinyPairs(rows=32, cache_dir=str(tmp_path))
    trainer(max_epochs=3, callbacks=[rule]).fit(model, data)
    side, score = data.partition.side.numpy(), data.partition.score.numpy()
    assert (side == SAFE).sum() == 16 and score[side == SAFE].min() >= score[side == RISKY].max()


def test_a_filter_of_ones_own_drops_pairs(tmp_path: Path) -> None:
    module, overlay = recipe('filter', tmp_path)
    (config,) = overlay['data']['init_args']['filters'].values()
    data = set_up(TinyPairs(filters={'mine': constructed(module, config)}, cache_dir=str(tmp_path)))
    words = np.array([len(caption.split()) for caption in data.table.captions(np.arange(len(data.table)))])
    assert 0 < (words < 4).sum() < len(words)
    np.testing.assert_array_equal(data.partition.side.numpy() == DROPPED, words < 4)


def test_a_metric_of_ones_own_reads_embeddings_of_clean_sets_alone(tmp_path: Path) -> None:
    module, overlay = recipe('metric', tmp_path)
    metric = constructed(module, {'init_args': {}, **overlay['callbacks']['linear_probe']})
    model = CLIP(architecture=tiny_architecture(tmp_path))
    data = TinyPairs(rows=40, attacks={'badnet': BadNet('boat', size=2, count=4)}, cache_dir=str(tmp_path))
    run = trainer(max_epochs=1, callbacks=[metric])
    run.fit(model, data)
    assert [name for name in run.callback_metrics if name.startswith('probe/')] == ['probe/heldout']
    heldout = data.evaluation_sets[0]
    known = heldout.label >= 0
    with torch.no_grad():
        image = model.eval().encode_image(clean_view(torch.from_numpy(heldout.images[known]), IMAGE_SIZE)).numpy()
    label, similarity = heldout.label[known], image @ image.T
    nearest = [max((other for other in range(len(label)) if other != row), key=lambda x: similarity[row, x])
               for row in range(len(label))]  # fmt: skip
    assert float(run.callback_metrics['probe/heldout']) == pytest.approx((label[nearest] == label).mean())


def test_a_data_set_of_ones_own_is_read_in_order(tmp_path: Path) -> None:
    module, overlay = recipe('data', tmp_path)
    for name in ('b', 'a', 'without'):
        Image.new('RGB', (8, 8)).save(tmp_path / f'{name}.jpg')
    for name in ('a', 'b'):
        (tmp_path / f'{name}.txt').write_text(f'a picture\n of {name}\n')
    table = constructed(module, overlay['data'], root=str(tmp_path)).load_table()
    assert table.captions([0, 1]) == ['a picture of a', 'a picture of b']
    assert table.open(1).size == (8, 8)


@pytest.mark.parametrize('name', ['attack', 'trigger', 'loss', 'split', 'filter', 'metric', 'data'])
def test_every_recipe_has_a_file_and_its_yaml(name: str) -> None:
    assert {name, f'{name} overlay'} <= RECIPES.keys()


def test_no_recipe_is_left_untested() -> None:
    page = (ROOT / 'CONTRIBUTING.md').read_text()
    assert page.count('```python') + page.count('```yaml') == len(RECIPES)
