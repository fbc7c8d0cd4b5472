"""Sweeps of Weights & Biases: the command of one drawn setting, as the agent makes it, trains a step."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from experiments import cli
from experiments.bench.run import draw_pictures
from tests.experiments.conftest import EXPERIMENTS, TINY

SWEEPS = sorted((EXPERIMENTS / 'sweeps').glob('*.yaml'))
SMALL = [
    TINY,
    '--data.subset=40',
    '--data.batch_size=20',
    '--data.attacks={}',
    '--data.canaries={}',
    '--trainer.accelerator=cpu',
    '--trainer.callbacks=null',
    '--trainer.logger=false',
    '--trainer.enable_progress_bar=false',
    '--trainer.check_val_every_n_epoch=1',
    '--trainer.log_every_n_steps=1',
    '--trainer.fast_dev_run=1',
]


def draw(parameter: dict[str, Any], source: random.Random) -> Any:
    """A value of a parameter."""
    match parameter:
        case {'values': values}:
            return source.choice(values)
        case {'distribution': 'uniform', 'min': low, 'max': high}:
            return source.uniform(low, high)
        case {'distribution': 'log_uniform_values', 'min': low, 'max': high}:
            return math.exp(source.uniform(math.log(low), math.log(high)))
    raise NotImplementedError(parameter)


def command_of(sweep: dict[str, Any], setting: dict[str, Any]) -> list[str]:
    """What the agent runs for a setting."""
    macros = create_sweep_command_args({'args': {name: {'value': value} for name, value in setting.items()}})
    macros['env'] = ['/usr/bin/env']
    words = create_sweep_command([*sweep['command']])
    return [part for word in words for part in macros.get(word.removeprefix('${').removesuffix('}'), [word])]


@pytest.mark.parametrize('file', SWEEPS, ids=lambda path: path.stem)
def test_a_drawn_setting_trains_a_step(file: Path, tmp_path: Path) -> None:
    sweep = yaml.safe_load(file.read_text())
    source = random.Random(7)
    setting = {name: draw(parameter, source) for name, parameter in sweep['parameters'].items()}
    words = command_of(sweep, setting)
    assert words[:4] == ['/usr/bin/env', 'WANDB_MODE=online', 'clipward', 'fit']
    draw_pictures(tmp_path / 'pictures', 40)
    folders = ['data.root=pictures', 'data.cache_dir=cache', 'trainer.default_root_dir=runs']
    command = cli.main([*words[3:], *SMALL, *(f'--{option.replace("=", f"={tmp_path}/")}' for option in folders)])
    for name, value in setting.items():
        section, _, argument = name.rpartition('.')
        assert command.config.fit[section].init_args[argument] == value
    assert command.trainer.global_step == 1
    assert {'train/loss', sweep['metric']['name']} <= command.trainer.callback_metrics.keys()
