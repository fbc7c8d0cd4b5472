"""Runs the subcommands that need a surrogate on a model and data set that take a second."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from datamodules.text.tokenizer import WordTokenizer
from experiments import cli
from lightning_modules.clip import CLIP
from tests.helpers.tiny import tiny_architecture

SIDE = 16


def checkpoint(folder: Path) -> str:
    """Saves an untrained surrogate and returns its path."""
    torch.manual_seed(3)
    model = CLIP(tiny_architecture(folder, 'surrogate', image_size=SIDE))
    torch.save({'state_dict': model.state_dict()}, folder / 'surrogate.ckpt')
    return str(folder / 'surrogate.ckpt')


def run_tool(folder: Path, subcommand: str, *args: str) -> None:
    """Runs ``clipward <subcommand>`` on 96 toy pairs, with further options."""
    model = ['--model=CLIP', f'--model.architecture={tiny_architecture(folder, "surrogate", image_size=SIDE)}']
    sizes = ['--data=ToyPairs', '--data.rows=96', '--data.heldout_rows=48', f'--data.scene_size={SIDE}']
    folders = [f'--data.cache_dir={folder}/cache', f'--trainer.default_root_dir={folder}/runs']
    quiet = ['--trainer.accelerator=cpu', '--trainer.callbacks=null', '--data.templates=["a {}"]']
    cli.main([subcommand, *model, *sizes, *folders, *quiet, *args])


def refusal(capsys: pytest.CaptureFixture[str], folder: Path, subcommand: str, *args: str) -> str:
    """The error message that a subcommand ends with."""
    with pytest.raises(SystemExit) as exit:
        run_tool(folder, subcommand, *args)
    assert exit.value.code == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith('error: '))
    return line.removeprefix('error: ')


@pytest.fixture(autouse=True, scope='module')
def quick() -> Iterator[None]:
    """Reads the vocabulary once, which takes longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('datamodules.pairs.WordTokenizer', cache(WordTokenizer))
        yield
