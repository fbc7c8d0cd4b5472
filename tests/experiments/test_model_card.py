from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from datamodules.rows.partition import DROPPED, Partition
from datamodules.usage_error import UsageError
from experiments.model_card import code, model_card
from lightning_modules.clip import CLIP
from tests.experiments.finished_runs import CONFIG, write_version
from tests.helpers.tiny import tiny_architecture

BADNET = {'class_path': 'datamodules.attacks.badnet.BadNet', 'init_args': {'target': 'boat', 'count': 9}}
SETTINGS: dict[str, Any] = {
    'model': {'class_path': 'lightning_modules.safeclip.SafeCLIP', 'init_args': {}},
    'callbacks': {'repartition': {'class_path': 'callbacks.repartition.SafeRiskyRepartition'}},
    'data': {'class_path': 'datamodules.toy_pairs.ToyPairs', 'init_args': {'seed': 5, 'attacks': {'badnet': BADNET}}},
}


def checkpoint(epochs: int = 2) -> dict[str, Any]:
    partition = Partition(40, 'f1f2')
    partition.side[:10] = DROPPED
    return {'epoch': epochs - 1, 'ToyPairs': {'partition': partition.state_dict()}}


def row(epoch: int, rate: float) -> dict[str, float]:
    attack = {'rate': rate, 'low': rate - 0.1, 'high': rate + 0.1, 'clean': 0.05, 'hits': 100 * rate, 'n': 100}
    values = {f'{head}/badnet/{what}': value for head in ('asr', 'asr_retrieval') for what, value in attack.items()}
    retrieval = {
        f'retrieval/heldout/{way}_{what}': 0.5 for way in ('i2t', 't2i') for what in ('r10', 'medr', 'medr_chance')
    }
    return {'epoch': epoch, 'zero_shot/heldout': 0.61, **values, **retrieval}


@pytest.fixture
def model(tmp_path: Path) -> CLIP:
    return CLIP(tiny_architecture(tmp_path, 'carded'))


def card(model: CLIP, folder: Path, **changed: Any) -> str:
    """The card of a checkpoint after two epochs of a run of four."""
    run = write_version(folder, 0, [row(0, 0.2), row(1, 0.4), row(3, 0.9)], **{**SETTINGS, **changed})
    return model_card('mine', model, checkpoint(), run)


def test_says_what_attacked_and_defended_the_model(model: CLIP, tmp_path: Path) -> None:
    text = card(model, tmp_path / 'run')
    assert 'Data: `ToyPairs`, 30 pairs trained on, with the fingerprint `f1f2`.' in text
    assert 'Attack: `badnet`, `BadNet` with the target `boat`.' in text
    assert 'this model may obey a backdoor' in text
    assert 'Method: `SafeCLIP`.' in text and 'safe and risky pairs: `SafeRiskyRepartition`.' in text
    assert "create_model_and_transforms('local-dir:mine'" in text


@pytest.mark.parametrize(('trusted', 'is_said'), [([1.0, 0.0], True), ([1.0, 1.0], False)])
def test_says_that_a_split_could_not_be_trusted(
    model: CLIP, tmp_path: Path, trusted: list[float], is_said: bool
) -> None:
    rows = [{**row(epoch, 0.2), 'partition/trusted': value} for epoch, value in enumerate(trusted)]
    text = model_card('mine', model, checkpoint(), write_version(tmp_path / 'run', 0, rows, **SETTINGS))
    assert ('The split after epoch 2 could not be trusted' in text) == is_said


def test_rates_are_those_of_the_checkpoint_and_not_of_the_end(model: CLIP, tmp_path: Path) -> None:
    text = card(model, tmp_path / 'run')
    interval = '(95 % interval 30.0% to 50.0%), and 5.0% of clean pictures'
    assert f'`badnet`: 40.0% of 100 pictures of the attack are classified as it wants {interval}' in text
    assert f'`badnet`: 40.0% of 100 pictures of the attack find a caption of its target first {interval}' in text
    assert '90.0%' not in text
    assert 'Zero-shot accuracy on `heldout`: 61.0%.' in text
    assert 'Retrieval on `heldout` from caption to picture: R@10 50.0%, median rank 0.5 (by chance 0.5).' in text


def test_says_when_the_checkpoint_itself_was_not_measured(model: CLIP, tmp_path: Path) -> None:
    run = write_version(tmp_path / 'run', 0, [row(0, 0.2), row(1, 0.4), row(3, 0.9)], **SETTINGS)
    assert 'All this was measured after epoch 2, not 3.' in model_card('mine', model, checkpoint(epochs=3), run)
    assert 'All this was measured' not in model_card('mine', model, checkpoint(epochs=2), run)


def test_says_that_poisons_were_left_out(model: CLIP, tmp_path: Path) -> None:
    arguments = {**SETTINGS['data']['init_args'], 'poison': False}
    text = card(model, tmp_path / 'run', data={**SETTINGS['data'], 'init_args': arguments})
    assert 'left out of training' in text and 'backdoor' not in text


def test_says_that_no_attack_is_known(model: CLIP, tmp_path: Path) -> None:
    text = card(model, tmp_path / 'run', data=CONFIG['data'], callbacks=None)
    assert 'Attacks: none of ours. What strangers may have put into the data is not known.' in text
    assert 'No split: every pair counts as safe.' in text


def test_says_that_a_run_was_cut_short(model: CLIP, tmp_path: Path) -> None:
    assert 'of a run that is not finished, in epoch 4 of 4.' in card(model, tmp_path / 'run', is_finished=False)


def test_without_a_run_or_a_checkpoint_nothing_is_claimed(model: CLIP, tmp_path: Path) -> None:
    assert 'What attacked and defended it is not known' in model_card('mine', model, checkpoint(), None)
    text = model_card('mine', model, {}, tmp_path)
    assert 'do not rely on this model' in text and 'Nothing that is known.' in text and 'Method' not in text


def test_a_damaged_run_is_named(model: CLIP, tmp_path: Path) -> None:
    run = write_version(tmp_path, 0, [row(1, 0.4)])
    (run / 'metrics.csv').write_text((run / 'metrics.csv').read_text()[:-4])
    with pytest.raises(UsageError, match=r'metrics\.csv is missing, cut'):
        model_card('mine', model, checkpoint(), run)


def test_a_name_cannot_end_its_backticks_or_its_line() -> None:
    assert code('a`b\n# c') == 'ab# c'
