from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from experiments.quick_imports import UNUSED_EXTRAS, only_describes
from tests.helpers.parameters import first_fast

ROOT = Path(__file__).parents[2]
HEAVY = (  # each takes a tenth of a second or more, most take seconds
    'lightning', 'torch', 'torchmetrics', 'torchvision', 'jsonargparse', 'omegaconf', 'open_clip', 'timm', 'numpy',
    'scipy', 'sklearn', 'pandas', 'pyarrow', 'matplotlib', 'PIL', 'wandb', 'nltk', 'transformers', 'huggingface_hub',
)  # fmt: skip
ONLY_TO_RUN = ('torchvision', 'open_clip', 'timm', 'scipy', 'sklearn', 'matplotlib', 'wandb', 'nltk', 'transformers')
COMMAND = """
import sys
from experiments import cli

sys.argv = ['clipward', *sys.argv[1:]]
try:
    cli.command()
except SystemExit:
    pass
print('LOADED', *sys.modules)
"""


def loaded_modules(*arguments: str) -> set[str]:
    """Top-level modules that are loaded after a command in a process of its own."""
    result = subprocess.run(
        [sys.executable, '-c', COMMAND, *arguments], capture_output=True, text=True, cwd=ROOT, check=True
    )
    (line,) = (line for line in result.stdout.splitlines() if line.startswith('LOADED'))
    return {name.split('.')[0] for name in line.split()}


class TestLoadedModules:
    @pytest.mark.parametrize('arguments', [['--help'], ['fitt'], []])
    def test_the_list_of_subcommands_needs_none_of_the_heavy_ones(self, arguments: list[str]) -> None:
        assert not loaded_modules(*arguments) & set(HEAVY)

    @pytest.mark.parametrize(
        'option', ['--trainer.max_epoch=3', '--callbacks.repartition.treshold=0.9', '--data.attacks.badnet.rat=0.1']
    )
    def test_a_misspelled_option_needs_none_of_the_heavy_ones(self, option: str) -> None:
        assert not loaded_modules('fit', '--config', 'experiments/safeclip_toy.yaml', option) & set(HEAVY)

    @pytest.mark.parametrize(
        'arguments', first_fast([['--config', 'experiments/safeclip_toy.yaml', '--print_config'], ['--help']])
    )
    def test_printing_needs_none_that_only_a_run_needs(self, arguments: list[str]) -> None:
        loaded = loaded_modules('fit', *arguments)
        assert 'lightning' in loaded
        assert not loaded & set(ONLY_TO_RUN)


class TestOnlyDescribes:
    @pytest.mark.parametrize(
        'option', ['-h', '--help', '--print_config=skip_unset', '--data.help', '--model.help=CLIP']
    )
    def test_help_and_settings_are_descriptions(self, option: str) -> None:
        assert only_describes(['fit', option])

    def test_anything_else_may_run(self) -> None:
        assert not only_describes(['fit', '--name=--help', '--config', 'help'])


def test_hidden_packages_look_as_if_they_were_not_installed_until_lightning_is_imported() -> None:
    program = """
from experiments.quick_imports import quick_imports
with quick_imports(runs_nothing=True):
    import torchmetrics.utilities.imports as extras
assert not extras._TORCHVISION_AVAILABLE, 'seen by torchmetrics'
import scipy, torchvision, matplotlib, gc, sys
assert gc.isenabled()
assert not [finder for finder in sys.meta_path if 'NotInstalled' in repr(finder)]
"""
    assert all(version(package) for package in UNUSED_EXTRAS)
    subprocess.run([sys.executable, '-c', program], cwd=ROOT, check=True)
