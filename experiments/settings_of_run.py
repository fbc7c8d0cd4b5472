"""Lets subcommands that look at a run take its model and data from its ``config.yaml``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from datamodules.usage_error import UsageError
from experiments.config_files import is_text, read_config
from experiments.config_text import read_mapping
from experiments.subcommands import options_with_values

FILE = 'config.yaml'
FROM_FILES = ('protect', 'audit', 'clean')  # take model and data from a given file of a run, poisons and filters too
TAKE_FILES = (*FROM_FILES, 'explain')
WEIGHTS = ('pretrained', 'init_from', 'frozen')  # a trained model is told by its checkpoint; others need none
LEFT_OUT: dict[str, tuple[str, ...]] = {  # by all but `protect`: also what is done to training pairs
    'model': WEIGHTS,
    'data': ('attacks', 'filters', 'trusted', 'canaries', 'image_views', 'caption_views'),
}


def add_settings_of_run(arguments: Sequence[str]) -> list[str]:
    """Adds settings to a command that looks at checkpoints, or publishes a store, and names no file of settings.

    Of a run that is looked at only model and data are taken, as the checkpoint may come from somebody who is not
    trusted: nothing that logs, calls back or reads poison. Even so its file names classes to make, among models and
    data sets alone. ``protect`` also takes the number of rounds, and the same from a given file of a run, as do
    ``audit`` and ``clean``; ``explain`` takes model and data from it.

    Args:
        arguments: Arguments of a command, the subcommand first.

    Returns:
        The same, with a ``--config`` before the other options if a run has left one.

    Raises:
        UsageError: If there is no such checkpoint, or the file of the run is no file of settings.
    """
    given = dict(options_with_values(arguments))
    if {'config', 'c'} & {*given}:
        return _with_files_of_runs(arguments) if arguments[0] in TAKE_FILES else list(arguments)
    if option := _option_of_checkpoint(arguments[0], given):
        checkpoint = Path(given[option])
        if not checkpoint.is_file():
            what = 'is not a file' if checkpoint.exists() else 'does not exist'
            raise UsageError(f'{option}={given[option]!r} {what}.')
        folders = checkpoint.absolute().parents[:2]
    elif arguments[0] == 'protect' and 'store' in given:
        folders = [Path(given['store']).absolute().parent]
    else:
        return list(arguments)
    file = next((folder / FILE for folder in folders if (folder / FILE).is_file()), None)
    added = [] if file is None else [f'--config={_settings_in(file, arguments[0])}']
    return [*arguments[:1], *added, *arguments[1:]]


def _option_of_checkpoint(subcommand: str, given: Mapping[str, str]) -> str:
    """The option that names the checkpoint whose run has the settings; of several models, that of the first."""
    if subcommand == 'explain':
        return next((option for option in given if option.startswith('models.')), '')
    return 'ckpt_path' if subcommand in ('inspect', 'export_model') and given.get('ckpt_path') else ''


def _with_files_of_runs(arguments: Sequence[str]) -> list[str]:
    """Replaces each file of a run by what the subcommand takes from it: it also has options of ``fit`` alone."""
    replaced: list[str] = []
    for argument in arguments:
        option, equals, value = argument.rpartition('=') if argument.startswith('-') else ('', '', argument)
        is_value = option in ('--config', '-c') or (not option and replaced and replaced[-1] in ('--config', '-c'))
        if is_value and not is_text(value) and Path(value).name == FILE and Path(value).is_file():
            argument = f'{option}{equals}{_settings_in(Path(value), arguments[0])}'
        replaced.append(argument)
    return replaced


def _settings_in(file: Path, subcommand: str) -> str:
    text = read_config(file)
    read_mapping(text, str(file))
    settings: Any = yaml.safe_load(text) or {}
    left_out = {'model': WEIGHTS, 'data': ()} if subcommand in FROM_FILES else LEFT_OUT
    taken = {part: _without(settings[part], left_out[part]) for part in left_out if part in settings}
    if subcommand == 'protect':
        taken['trainer'] = {'max_epochs': (settings.get('trainer') or {}).get('max_epochs')}
    return yaml.safe_dump(taken, sort_keys=False)  # attacks are applied in their order


def _without(part: Any, left_out: Sequence[str]) -> Any:
    """The class of a model or data set with its arguments, but for some."""
    if not isinstance(part, Mapping) or not isinstance(part.get('init_args'), Mapping):
        return part
    return {**part, 'init_args': {name: value for name, value in part['init_args'].items() if name not in left_out}}
