"""The parser of options and YAML files."""

from __future__ import annotations

from typing import NoReturn

from jsonargparse import set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser

from experiments.errors import fail, parser_message

# `${trainer.max_epochs}` in a file means this run's, although the parser keeps it one level down, under `fit`.
set_parsing_settings(omegaconf_absolute_to_relative_paths=True)


class Parser(LightningArgumentParser):
    """Lightning's parser, with errors that say what is wrong and nothing else."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        fail(parser_message(message))
