"""Refuses settings of the trainer with which Lightning would fail late, or do something else than they say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from datamodules.usage_error import SEEDS, UsageError, check_number
from lightning_modules.clip import check_accumulation

PRECISIONS = ('32-true', '32', '16-mixed', '16', 'bf16-mixed', 'bf16', 'None')  # what keeps the weights in 32 bits
PARTS = ('train', 'val', 'test', 'predict')
TRAINING = {  # intervals of settings that Lightning divides by, or takes for something else when they are negative
    'max_epochs': '[1, inf)',
    'accumulate_grad_batches': '[1, inf)',
    'check_val_every_n_epoch': '[1, inf)',
    'gradient_clip_val': '[0, inf)',
    'log_every_n_steps': '[0, inf)',
}


def check_trainer(trainer: Mapping[str, Any], subcommand: str) -> None:
    """Checks the section ``trainer`` of a configuration.

    Args:
        trainer: The section.
        subcommand: The subcommand that it is for.

    Raises:
        UsageError: If a setting cannot work.
    """
    if trainer['barebones']:
        raise UsageError(
            'trainer.barebones=true is not supported, as a run keeps its logs: set trainer.enable_checkpointing, '
            'trainer.enable_progress_bar and trainer.enable_model_summary to false instead.'
        )
    for part in PARTS:
        if trainer[f'limit_{part}_batches'] == 1:
            raise UsageError(
                f'trainer.limit_{part}_batches=1 would be read as 100 %: leave it null for all batches, set 2, or '
                f'trainer.fast_dev_run=1 for one.'
            )
    if str(trainer['precision']) not in PRECISIONS:
        raise UsageError(
            f'trainer.precision={trainer["precision"]} does not keep the weights in 32 bits, which scores and '
            f'optimizer rely on: use bf16-mixed, 16-mixed or 32-true.'
        )
    _check_strategy(trainer['strategy'])
    if subcommand == 'fit':
        _check_training(trainer)


def _check_strategy(strategy: Any) -> None:
    """Refuses by its name, before its package is asked for, what :func:`lightning_modules.clip.check_strategy` would.

    Spawned processes would have to receive the command itself, which cannot be sent.
    """
    name = str(strategy)
    if name.startswith(('fsdp', 'deepspeed')) or 'spawn' in name:
        raise UsageError(
            f'trainer.strategy={name} is not supported: use ddp, and model.grad_checkpointing or model.chunk_size if '
            f'memory is short.'
        )


def _check_training(trainer: Mapping[str, Any]) -> None:
    if trainer['overfit_batches']:
        raise UsageError('trainer.overfit_batches takes a sampler of Lightning: set trainer.limit_train_batches.')
    if 0 in (trainer['limit_train_batches'], trainer['max_steps']):
        raise UsageError('trainer.limit_train_batches=0 or trainer.max_steps=0 would train nothing: raise it.')
    if trainer['val_check_interval'] == 0:
        raise UsageError('trainer.val_check_interval=0 is no interval: leave it null to evaluate after each epoch.')
    for name, interval in TRAINING.items():
        check_number(f'trainer.{name}', trainer[name], interval)
    check_accumulation(trainer['accumulate_grad_batches'])


@contextmanager
def refused_by_lightning() -> Iterator[None]:
    """Turns what the trainer's constructor raises about its settings into a mistake of the user."""
    try:
        yield
    except (TypeError, ValueError, ModuleNotFoundError) as error:
        raise UsageError(f'trainer: {error}') from error


NAMED = ('data.attacks.', 'data.canaries.', 'data.filters.', 'data.labeled.')  # sections with names of the user's


def check_seeds(settings: Mapping[str, Any], prefix: str = '') -> None:
    """Checks every seed of a configuration, wherever it is.

    Raises:
        UsageError: If one is not a seed that all random generators take, or if YAML reads a name that the user chose
            as a number or as true, so that it is no name.
    """
    for written, value in settings.items():
        if prefix in NAMED and not isinstance(written, str):
            raise UsageError(f'{prefix[:-1]}: YAML reads a name as {written!r}: put it in quotes, or choose another.')
        name = str(written)
        key = f'{prefix}{name}'
        if isinstance(value, Mapping):
            check_seeds(value, f'{prefix}' if name == 'init_args' else f'{key}.')
        elif name == 'seed_everything' or name == 'seed' or name.endswith('_seed'):
            check_number(key, None if isinstance(value, bool | str) else value, SEEDS)
