from __future__ import annotations

import pytest
from lightning.pytorch.cli import LightningCLI

from experiments.subcommands import SUBCOMMANDS, TRAINING, find_subcommand, summarize


@pytest.mark.parametrize('name', SUBCOMMANDS)
def test_each_has_a_summary_of_one_sentence(name: str) -> None:
    assert summarize(name).endswith('.') and '\n' not in summarize(name)


def test_those_of_lightning_are_all_there() -> None:
    assert set(LightningCLI.subcommands()) == set(TRAINING)


@pytest.mark.parametrize(
    ('arguments', 'found'),
    [
        (['fit', 'test'], 'fit'),
        (['--help'], None),
        ([], None),
        (['--config', 'a.yaml', 'fit'], 'fit'),
        (['-c', 'a.yaml', '--print_config', 'fit'], 'fit'),
        (['--config=a.yaml', 'fit'], 'fit'),
    ],
)
def test_is_the_first_word_that_is_no_option(arguments: list[str], found: str | None) -> None:
    assert find_subcommand(arguments) == found
