from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from datamodules.usage_error import UsageError
from experiments.settings_of_run import add_settings_of_run

SETTINGS = {
    'model': {'class_path': 'CLIP', 'init_args': {'architecture': 'RN50', 'init_from': 'gone.ckpt', 'frozen': 'image'}},
    'data': {'class_path': 'ToyPairs', 'init_args': {'rows': 8, 'attacks': {'patch': None}, 'canaries': None}},
    'trainer': {'max_epochs': 3},
    'weights_only': None,
}

OF_A_STORE = {
    'model': {'class_path': 'CLIP', 'init_args': {'architecture': 'RN50'}},
    'data': SETTINGS['data'],
    'trainer': {'max_epochs': 3},
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of a run with a file of settings."""
    (tmp_path / 'checkpoints').mkdir()
    (tmp_path / 'config.yaml').write_text(yaml.safe_dump(SETTINGS))
    (tmp_path / 'checkpoints/last.ckpt').touch()
    return tmp_path / 'checkpoints/last.ckpt'


@pytest.mark.parametrize('command', ['inspect', 'export_model'])
def test_model_and_data_are_those_of_the_run_without_what_belongs_to_training(checkpoint: Path, command: str) -> None:
    subcommand, config, *rest = add_settings_of_run([command, '--ckpt_path', str(checkpoint), '--steps=5'])
    assert [subcommand, *rest] == [command, '--ckpt_path', str(checkpoint), '--steps=5']
    assert yaml.safe_load(config.removeprefix('--config=')) == {
        'model': {'class_path': 'CLIP', 'init_args': {'architecture': 'RN50'}},
        'data': {'class_path': 'ToyPairs', 'init_args': {'rows': 8}},
    }


@pytest.mark.parametrize('arguments', [['validate'], ['inspect', '--config=mine.yaml'], ['inspect', '-c', 'mine.yaml']])
def test_other_commands_and_given_files_are_left_as_they_are(arguments: list[str], checkpoint: Path) -> None:
    given = [*arguments, f'--ckpt_path={checkpoint}']
    assert add_settings_of_run(given) == given


def test_a_checkpoint_elsewhere_adds_nothing(tmp_path: Path) -> None:
    (tmp_path / 'a.ckpt').touch()
    given = ['inspect', f'--ckpt_path={tmp_path}/a.ckpt']
    assert add_settings_of_run(given) == given and add_settings_of_run(['inspect']) == ['inspect']


@pytest.mark.parametrize(('subcommand', 'option'), [('export_model', 'ckpt_path'), ('explain', 'models.MEM')])
def test_a_checkpoint_that_is_missing_is_refused_before_its_settings_are_missed(subcommand: str, option: str) -> None:
    with pytest.raises(UsageError, match=rf"{option}='gone\.ckpt' does not exist"):
        add_settings_of_run([subcommand, f'--{option}=gone.ckpt'])


def test_a_file_that_is_no_settings_is_refused_by_its_name(checkpoint: Path) -> None:
    (checkpoint.parents[1] / 'config.yaml').write_text('- a\n')
    with pytest.raises(UsageError, match=r'config: .*config\.yaml holds a list'):
        add_settings_of_run(['inspect', f'--ckpt_path={checkpoint}'])


def test_several_models_have_the_settings_of_the_first(checkpoint: Path, tmp_path_factory: Any) -> None:
    elsewhere = tmp_path_factory.mktemp('elsewhere') / 'b.ckpt'
    elsewhere.touch()
    models = [f'--models.clean={checkpoint}', f'--models.MEM={elsewhere}']
    subcommand, config, *rest = add_settings_of_run(['explain', *models])
    assert [subcommand, *rest] == ['explain', *models]
    assert yaml.safe_load(config.removeprefix('--config='))['data'] == {
        'class_path': 'ToyPairs', 'init_args': {'rows': 8}
    }  # fmt: skip
    assert add_settings_of_run(['explain', *models[::-1]]) == ['explain', *models[::-1]]


def test_those_of_models_may_be_in_the_file_of_another_run(checkpoint: Path) -> None:
    file = checkpoint.parents[1] / 'config.yaml'
    _, config, _ = add_settings_of_run(['explain', f'--config={file}', '--models.a=a.ckpt'])
    assert yaml.safe_load(config.removeprefix('--config=')).keys() == {'model', 'data'}


class TestOfAStore:
    def test_are_model_data_and_rounds_of_the_run_that_it_is_in(self, checkpoint: Path) -> None:
        store = checkpoint.parents[1] / 'noise'
        subcommand, config, *rest = add_settings_of_run(['protect', f'--store={store}', '--out=a'])
        assert [subcommand, *rest] == ['protect', f'--store={store}', '--out=a']
        assert yaml.safe_load(config.removeprefix('--config=')) == OF_A_STORE

    @pytest.mark.parametrize('form', ['--config={}', '--config {}', '-c {}'])
    def test_are_those_of_the_file_of_a_run_that_is_given(self, form: str, checkpoint: Path) -> None:
        given = form.format(checkpoint.parents[1] / 'config.yaml').split()
        added = add_settings_of_run(['protect', '--config=data/toy.yaml', *given, '--store=elsewhere'])
        assert added[:2] == ['protect', '--config=data/toy.yaml'] and added[-1] == '--store=elsewhere'
        assert yaml.safe_load(added[-2].removeprefix('--config=')) == OF_A_STORE


@pytest.mark.parametrize('subcommand', ['audit', 'clean'])
def test_an_audit_takes_data_with_attacks_in_their_order_from_a_given_file_of_a_run(
    subcommand: str, checkpoint: Path
) -> None:
    file = checkpoint.parents[1] / 'config.yaml'
    attacks = {'wanet': None, 'badnet': None}
    data = {'class_path': 'ToyPairs', 'init_args': {'attacks': attacks}}
    file.write_text(yaml.safe_dump({**SETTINGS, 'data': data}, sort_keys=False))
    _, config = add_settings_of_run([subcommand, f'--config={file}'])
    taken = yaml.safe_load(config.removeprefix('--config='))
    assert [*taken['data']['init_args']['attacks']] == [*attacks] and 'weights_only' not in taken
