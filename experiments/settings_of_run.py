"""Lets ``clipward inspect`` find model and data of a checkpoint beside it, in the ``config.yaml`` of its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from experiments.config_files import read_config
from experiments.config_text import read_mapping
from experiments.subcommands import options_with_values

FILE = 'config.yaml'
LEFT_OUT = {  # what a trained model is told by its checkpoint, and what is done to training pairs
    'model': ('pretrained', 'init_from'),
    'data': ('attacks', 'filters', 'trusted', 'canaries', 'image_views', 'caption_views'),
}


def add_settings_of_run(arguments: Sequence[str]) -> list[str]:
    """Adds settings to a command that inspects a checkpoint and names no file of settings.

    Only model and data are taken, as the checkpoint may come from somebody who is not trusted: nothing that logs, calls
    back or reads poison. Even so its file names classes to make, among models and data sets alone.

    Args:
        arguments: Arguments of a command, the subcommand first.

    Returns:
        The same, with a ``--config`` before the other options if a run has left one.

    Raises:
        UsageError: If the file of the run is no file of settings.
    """
    given = dict(options_with_values(arguments))
    if arguments[0] != 'inspect' or 'ckpt_path' not in given or {'config', 'c'} & {*given}:
        return list(arguments)
    folders = Path(given['ckpt_path']).absolute().parents[:2]
    file = next((folder / FILE for folder in folders if (folder / FILE).is_file()), None)
    return [*arguments[:1], *([] if file is None else [f'--config={_settings_in(file)}']), *arguments[1:]]


def _settings_in(file: Path) -> str:
    text = read_config(file)
    read_mapping(text, str(file))
    settings: Any = yaml.safe_load(text) or {}
    return yaml.safe_dump({part: _without(settings[part], LEFT_OUT[part]) for part in LEFT_OUT if part in settings})


def _without(part: Any, left_out: Sequence[str]) -> Any:
    """The class of a model or data set with its arguments, but for some."""
    if not isinstance(part, Mapping) or not isinstance(part.get('init_args'), Mapping):
        return part
    return {**part, 'init_args': {name: value for name, value in part['init_args'].items() if name not in left_out}}
