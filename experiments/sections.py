"""Files with settings for several subcommands: ``clipward -c FILE fit`` reads the section ``fit`` of a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from datamodules.usage_error import UsageError
from experiments.config_files import find_config, is_text, read_config
from experiments.config_text import read_mapping
from experiments.near_names import find_similar
from experiments.subcommands import SUBCOMMANDS, config_values


def move_sections(arguments: Sequence[str], subcommand: str) -> list[str]:
    """Puts the settings that files before a subcommand have for it behind the subcommand.

    Args:
        arguments: Arguments of the command, such as ``-c FILE fit --name=mine``.
        subcommand: The subcommand among them.

    Returns:
        The same with the subcommand first, and with the sections of the files as ``--config`` before its options.

    Raises:
        UsageError: If a file has no section of the subcommand.
    """
    at = arguments.index(subcommand)
    before, after = arguments[:at], arguments[at + 1 :]
    sections = [f'--config={yaml.safe_dump(_section(file, subcommand))}' for file in config_values(before)]
    flags = [word for word in before if word.startswith('-') and word.partition('=')[0] not in ('-c', '--config')]
    return [subcommand, *sections, *flags, *after]


def _section(config: str, subcommand: str) -> dict[str, Any]:
    """The settings of a subcommand in a file with sections; its bases are named by their full path."""
    path = None if is_text(config) else find_config(config, Path())
    file, text = ('the given text', config) if path is None else (str(path), read_config(path))
    read_mapping(text, file)
    sections: dict[str, Any] = yaml.safe_load(text) or {}
    _check_names(sections, file, subcommand)
    section = sections.get(subcommand) or {}
    if not isinstance(section, dict):
        raise UsageError(f'config: {file}: expected settings by name under {subcommand}, got {section!r}.')
    if path is not None and isinstance(section.get('base'), list):
        section['base'] = [str(find_config(str(name), path.parent)) for name in section['base']]
    return section


def _check_names(sections: dict[str, Any], file: str, subcommand: str) -> None:
    if sections and not {*sections} & {*SUBCOMMANDS}:
        raise UsageError(
            f'config: {file} has no section {subcommand}: give its settings under {subcommand}, or name the file after '
            f'the subcommand, as in clipward {subcommand} --config FILE.'
        )
    for name in {*sections} - {*SUBCOMMANDS}:
        raise UsageError(f'config: {file}: unrecognized section {name!r}: {find_similar(str(name), SUBCOMMANDS)}')
