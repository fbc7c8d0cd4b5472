from __future__ import annotations

from typing import Any

import pytest

from datamodules.usage_error import UsageError
from experiments.trainer_check import check_seeds, check_trainer, refused_by_lightning

DEFAULTS: dict[str, Any] = {
    **dict.fromkeys([f'limit_{part}_batches' for part in ('train', 'val', 'test', 'predict')]),
    **dict.fromkeys(['precision', 'val_check_interval', 'check_val_every_n_epoch', 'gradient_clip_val']),
    'barebones': False,
    'overfit_batches': 0.0,
    'strategy': 'auto',
    'max_epochs': 1,
    'max_steps': -1,
    'accumulate_grad_batches': 1,
    'log_every_n_steps': 10,
}


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('limit_val_batches', 1.0),
        ('barebones', True),
        ('limit_train_batches', 0),
        ('precision', 'bf16-true'),
        ('precision', 64),
        ('precision', 'transformer-engine'),
        ('overfit_batches', 2),
        ('max_epochs', 0),
        ('max_steps', 0),
        ('accumulate_grad_batches', 0),
        ('accumulate_grad_batches', 2),
        ('strategy', 'fsdp'),
        ('strategy', 'deepspeed_stage_2'),
        ('strategy', 'ddp_spawn'),
        ('check_val_every_n_epoch', 0),
        ('val_check_interval', 0),
        ('gradient_clip_val', -1.0),  # Lightning would turn the gradient around
        ('log_every_n_steps', -1),
    ],
)
def test_a_setting_that_cannot_work_is_named(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf'trainer\.{name}'):
        check_trainer({**DEFAULTS, name: value}, 'fit')


@pytest.mark.parametrize('precision', [None, 32, '32-true', '16-mixed', 'bf16-mixed', 'bf16'])
def test_precisions_with_weights_in_32_bits_are_accepted(precision: Any) -> None:
    check_trainer({**DEFAULTS, 'precision': precision}, 'fit')


def test_all_batches_are_asked_for_by_null() -> None:
    with pytest.raises(UsageError, match='leave it null for all batches'):
        check_trainer({**DEFAULTS, 'limit_train_batches': 1.0}, 'fit')


def test_settings_of_training_matter_in_training_alone() -> None:
    check_trainer({**DEFAULTS, 'max_epochs': 0}, 'validate')


@pytest.mark.parametrize('error', [TypeError, ValueError, ModuleNotFoundError])
def test_what_lightning_refuses_is_a_mistake_of_the_user(error: type[Exception]) -> None:
    with pytest.raises(UsageError, match=r'^trainer: no such strategy$'), refused_by_lightning():
        raise error('no such strategy')


@pytest.mark.parametrize(
    ('settings', 'argument'),
    [
        ({'seed_everything': -1}, 'seed_everything'),
        ({'data': {'init_args': {'seed': 2**32}}}, 'data.seed'),
        ({'data': {'init_args': {'attacks': {'a': {'init_args': {'pool_seed': -3}}}}}}, 'data.attacks.a.pool_seed'),
    ],
)
def test_a_seed_is_refused_wherever_it_is(settings: dict[str, Any], argument: str) -> None:
    with pytest.raises(UsageError, match=rf'^{argument} must lie in '):
        check_seeds(settings)


@pytest.mark.parametrize('name', [True, 1, None])
def test_a_name_that_yaml_does_not_read_as_text_is_refused(name: Any) -> None:
    with pytest.raises(UsageError, match=rf'^data.canaries: YAML reads a name as {name}: put it in quotes'):
        check_seeds({'data': {'init_args': {'canaries': {name: {'init_args': {'seed': 1}}}}}})
    check_seeds({'callbacks': {'accumulation': {'scheduling': {4: 2}}}})


def test_other_seeds_are_accepted() -> None:
    check_seeds({'seed_everything': True, 'data': {'seed': 7, 'scene_seed': '${seed_everything}', 'seeds': -1}})
