from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from experiments import cli
from experiments.command_line import CommandLine

EXPERIMENTS = Path(cli.__file__).parent
SMALL = [  # enough for every part of a run to do something, in seconds
    '--data.rows=96',
    '--data.heldout_rows=48',
    '--data.batch_size=24',
    # Names that the file does not use: an attack of the same name would keep the arguments that it has there.
    '--data.attacks={patch: {class_path: BadNet, init_args: {target: striped star, count: 4, size: 4}}, '
    'aimed: {class_path: TargetedPoison, init_args: {targets: 2, count: 4, captions: templates}}}',
    '--model.unimodal_epochs=1',
    '--trainer.max_epochs=3',
    '--trainer.log_every_n_steps=1',
    '--trainer.accelerator=cpu',
    '--trainer.enable_progress_bar=false',
    '--trainer.enable_model_summary=false',
    '--trainer.callbacks=null',
    '--callbacks.figures=null',
]

TINY = '--model.architecture=tiny_toy.json'


class FakeRun:
    """Stands for a W&B run: keeps what it was told."""

    def __init__(self, **settings: Any) -> None:
        self.settings, self.metrics, self.logged, self.artifacts = settings, {}, [], []
        self.config = self
        self.id, self.name, self.offline = settings.get('id') or 'fake', 'fake', False
        self.disabled = os.environ.get('WANDB_MODE') == 'disabled'

    def define_metric(self, metric: str, step_metric: str | None = None, **_: Any) -> None:
        self.metrics[metric] = step_metric

    def update(self, config: dict[str, Any], allow_val_change: bool = False) -> None:
        self.settings['config'] = config

    def log(self, values: dict[str, Any], **_: Any) -> None:
        self.logged.append(values)

    def log_artifact(self, artifact: Any) -> None:
        self.artifacts.append(artifact)


@pytest.fixture(scope='session')
def fake_wandb() -> Iterator[list[FakeRun]]:
    """Runs that have been started instead of real ones."""
    started: list[FakeRun] = []

    def init(**settings: Any) -> FakeRun:
        started.append(FakeRun(**settings))
        return started[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('wandb.init', init)
        patch.setenv('WANDB_MODE', 'offline')  # Lightning's logger leaves it changed
        yield started


class Instantiated(CommandLine):
    """Stops before anything runs."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


class Parsed(Instantiated):
    """Stops after parsing."""

    def instantiate_classes(self) -> None:
        pass


def parse(*args: str) -> Any:
    """The configuration of a command's subcommand."""
    command = cli.main(list(args), Parsed)
    return command.config[command.subcommand]


@cache
def _fit_parser() -> Any:
    return cli.main(['fit', '--config', str(EXPERIMENTS / 'clip_toy.yaml')], Parsed)._subcommand_parsers['fit']


@cache
def resolve(*args: str) -> Any:
    """The configuration that ``fit`` makes of its arguments, by one parser: to build it takes longer than to parse."""
    return _fit_parser().parse_args([*args])


def instantiate(*args: str) -> CommandLine:
    """Constructs what a command names, without running it."""
    return cli.main(list(args), Instantiated)


@pytest.fixture(scope='session')
def finished_run(tmp_path_factory: pytest.TempPathFactory, fake_wandb: list[FakeRun]) -> Path:
    """Folder of a small SafeCLIP run that came to its end."""
    root = tmp_path_factory.mktemp('runs')
    toy = str(EXPERIMENTS / 'safeclip_toy.yaml')
    where = [f'--trainer.default_root_dir={root}', f'--data.cache_dir={root}/cache']
    cli.main(['fit', '--config', toy, *SMALL, TINY, *where])
    return root / 'safeclip_toy' / 'version_0'
