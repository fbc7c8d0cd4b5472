"""The command: ``clipward fit --config experiments/safeclip_cc3m.yaml``, also installed as ``lightning``."""

from __future__ import annotations

import importlib
import logging
import os
import pkgutil
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException

import callbacks
import datamodules
import lightning_modules
from callbacks.attack_success import AttackSuccessRate
from callbacks.epoch_cost import EpochCost
from callbacks.figures import Figures
from callbacks.ledger import ScoreLedger
from callbacks.repartition import Repartition
from callbacks.zero_shot import ZeroShot
from datamodules.pairs import PairsDataModule
from experiments.checkpoint_io import AtomicCheckpointIO
from experiments.errors import fail, message_of, users_mistake
from experiments.parser import Parser
from experiments.plan import TrainingPlan
from experiments.run_folder import ResolvedConfig, RunFolder, claim, mark_done, vacate
from experiments.trainer import Trainer
from lightning_modules.clip import CLIP

HERE = Path(__file__).parent
SLOTS: dict[str, type[Callback]] = {  # the order in which they run, whatever the order in a file
    'filter': Callback,
    'attack_success': AttackSuccessRate,
    'zero_shot': ZeroShot,
    'linear_probe': Callback,
    'retrieval': Callback,
    'repartition': Repartition,
    'ledger': ScoreLedger,
    'epoch_cost': EpochCost,
    'figures': Figures,
    'checkpoint': ModelCheckpoint,
}

TOOLS: dict[str, set[str]] = {  # methods of our trainer that are subcommands; what is in the set, a user does not give
    'export': {'model', 'datamodule'},
    'harden': {'model', 'datamodule'},
    'optimize_patch': {'model', 'datamodule'},
    'rank_images': {'model', 'datamodule'},
    'check_attacks': {'model', 'datamodule'},
}
MEASURES = ('validate', 'test', 'predict')  # subcommands that random weights make no sense for

NO_NEWS = {  # warnings of libraries about what is meant to be so
    'isinstance.treespec, LeafSpec': 'Lightning 2.6 with a torch that is newer',
    'torch.distributed.nn.functional.all_gather is deprecated': 'the same',
    'The dirpath has changed from': 'each attempt at a run has a folder of its own',
    'Precision bf16-mixed is not supported by the model summary': 'it counts weights, and those are float32',
}
NO_NEWS_LOGGED = ('litlogger', 'No pretrained weights loaded')  # an advertisement; training from scratch


def quieten() -> None:
    """Leaves out what libraries say about things that are meant to be so."""
    for message in NO_NEWS:
        warnings.filterwarnings('ignore', f'.*{message}')
    for name in ('', 'lightning.pytorch.utilities.rank_zero'):
        logging.getLogger(name).addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not any(words in record.getMessage() for words in NO_NEWS_LOGGED)


def import_modules() -> None:
    """Imports every file of the project, so that a class in a new file can be named without being registered."""
    for package in (lightning_modules, datamodules, callbacks):
        for module in pkgutil.walk_packages(package.__path__, f'{package.__name__}.'):
            importlib.import_module(module.name)


class CommandLine(LightningCLI):
    """Lightning's command line with a slot for each callback, our loggers and our checkpoints."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {**LightningCLI.subcommands(), **TOOLS}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument('--name', type=str, default='run', help='Name of the run: its folder, and its name in W&B.')
        for slot, base in SLOTS.items():
            parser.add_lightning_class_args(base, f'callbacks.{slot}', subclass_mode=True, required=False)

    def setup_parser(
        self, add_subcommands: bool, main_kwargs: dict[str, Any], subparser_kwargs: dict[str, Any]
    ) -> None:
        super().setup_parser(add_subcommands, main_kwargs, subparser_kwargs)
        for subcommand, parser in self._subcommand_parsers.items():
            if subcommand in MEASURES:
                help = 'Measure a model with random weights instead of refusing to.'
                parser.add_argument('--allow_untrained', type=bool, default=False, help=help)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        assert isinstance(args, list)  # as `main` passes it
        self.config = parser.parse_args(args)  # the original also warns when a test runner has arguments of its own

    def _parse_ckpt_path(self) -> None:
        """Leaves the configuration alone; the original lets a checkpoint override it, even the class of the model."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        for part in ('train', 'val', 'test', 'predict'):
            if config.trainer[f'limit_{part}_batches'] == 1:
                fail(f'trainer.limit_{part}_batches=1 would be read as 100 %: take 2, or trainer.fast_dev_run=1.')
        checkpoint = config.get('ckpt_path')
        if checkpoint and checkpoint not in ('best', 'last') and not Path(checkpoint).is_file():
            fail(f'ckpt_path={checkpoint!r}: there is no such file.')
        if self.subcommand in MEASURES and not checkpoint and not config.allow_untrained and _untrained(config.model):
            fail(
                f'{self.subcommand} would measure random weights: give --ckpt_path or --model.init_from, '
                f'or --allow_untrained=true if that is what you want.'
            )

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        config = {**self._get(self.config_init, 'trainer', default={}), **kwargs}
        named = self._get(self.config_init, 'callbacks')
        chosen = [named.get(slot) for slot in SLOTS]
        config['plugins'] = _with_checkpoint_io(config.get('plugins'))
        trainer = self._instantiate_trainer(config, [RunFolder(), TrainingPlan(), *filter(None, chosen)])
        data_seed, seed = self._get(self.config_init, 'data').seed, self._get(self.config_init, 'seed_everything')
        if self.subcommand not in TOOLS:  # which are no runs
            claim(trainer, f'd{data_seed}-t{seed}')
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        finally:
            vacate(self.trainer)

    def after_fit(self) -> None:
        mark_done(self.trainer)


def _untrained(model: Any) -> bool:
    arguments = model.get('init_args') or {}
    return not (arguments.get('init_from') or arguments.get('pretrained'))


def _with_checkpoint_io(plugins: Any) -> list[Any]:
    """The plugins of the configuration, and atomic checkpoints unless they bring their own way of writing them."""
    given = list(plugins) if isinstance(plugins, list | tuple) else [plugins] * (plugins is not None)
    return given if any(isinstance(p, CheckpointIO) for p in given) else [*given, AtomicCheckpointIO()]


def main(args: list[str] | None = None, command_line: type[CommandLine] = CommandLine) -> CommandLine:
    """Runs one command.

    Args:
        args: What would follow the command's name in a shell; that itself if ``None``.
        command_line: What to make of them; a subclass may do less, or more.

    Returns:
        The command with its ``model``, ``datamodule`` and ``trainer``.

    Raises:
        SystemExit: With status 2 after a mistake in the configuration, described in one sentence. ``--traceback``,
            or ``CLIPWARD_TRACEBACK=1`` in the environment, shows where it was noticed instead.
    """
    arguments = sys.argv[1:] if args is None else list(args)
    show = '--traceback' in arguments or os.environ.get('CLIPWARD_TRACEBACK', '0') not in ('', '0')
    quieten()
    import_modules()
    try:
        return command_line(
            CLIP,
            PairsDataModule,
            trainer_class=Trainer,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,  # each module has its own; the flags would silently replace it
            parser_class=Parser,
            parser_kwargs=_parser_arguments(),
            save_config_callback=ResolvedConfig,
            save_config_kwargs={'overwrite': True},  # without a CSV logger there is no folder for each run
            args=[argument for argument in arguments if argument != '--traceback'],
        )
    except Exception as error:
        mistake = users_mistake(error)
        if show or mistake is None:
            raise
        fail(message_of(mistake))


def _parser_arguments() -> dict[str, Any]:
    """Keyword arguments of the root parser and of each subcommand's."""
    each = {'allow_abbrev': False, 'default_config_files': [str(HERE / 'defaults.yaml')]}
    subcommands = {name: {**each} for name in CommandLine.subcommands()}
    about = 'Pre-train CLIP on image-caption pairs that you do not trust.'
    root = {'prog': 'clipward', 'description': about, 'parser_mode': 'omegaconf+', 'allow_abbrev': False}
    return root | subcommands


def command() -> None:
    """The console script; exits with 143 when terminated, where Lightning 2.6 says 0."""
    try:
        main()
    except SIGTERMException:
        raise SystemExit(143) from None


if __name__ == '__main__':
    command()
