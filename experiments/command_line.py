"""Lightning's command line, extended by callback slots, tools as subcommands, run folders and atomic checkpoints."""

from __future__ import annotations

import importlib
import inspect
import logging
import pkgutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException

import callbacks
import datamodules
import lightning_modules
from datamodules.pairs import PairsDataModule
from experiments.agreement import Agreement
from experiments.checkpoint_choice import choose_checkpoint, newest_checkpoint
from experiments.checkpoint_io import AtomicCheckpointIO
from experiments.errors import DISTRUST, LOST, fail, short_errors, users_mistake
from experiments.last_evaluation import LastEvaluation
from experiments.last_word import how_to_resume, last_word, warn_of_unfinished
from experiments.measurements import describe_measurements
from experiments.parser import Parser, place_csv_logger
from experiments.plan import TrainingPlan
from experiments.process_watch import ProcessWatch, without_process
from experiments.progress_bar import with_progress_bar
from experiments.resolved_config import ResolvedConfig
from experiments.run_folder import RunFolder
from experiments.run_log import with_run_log
from experiments.run_place import check_name, check_run, place_of
from experiments.slurm_environment import check_launch, refuse_checkpoints_of_others, with_slurm
from experiments.subcommands import (
    DATA_ARGUMENTS,
    DESCRIPTION,
    FILLED_IN,
    MEASURE,
    NEED_WEIGHTS,
    SLOTS,
    SUBCOMMANDS,
    TOOLS,
    WHERE_HELP_IS,
    summarize,
)
from experiments.trainer_check import check_seeds, check_trainer, refused_by_lightning
from experiments.wandb_files import WandbFiles
from lightning_modules.clip import CLIP

NOTHING_MEASURED = (
    'Nothing was measured: the data has neither attacks nor labeled pictures, or their callbacks are off. '
    'data.labeled and data.class_names give pictures to measure accuracy on.'
)
DEFAULTS = Path(__file__).with_name('defaults.yaml')

EXPECTED_WARNINGS = {  # library warnings, with the reason why they can be ignored
    'isinstance.treespec, LeafSpec': 'Lightning 2.6 calls what newer torch deprecates',
    'torch.distributed.nn.functional.all_gather is deprecated': 'Lightning 2.6 calls what newer torch deprecates',
    'The dirpath has changed from': 'a run that branches off another has a folder of its own',
    'Checkpoint directory .* exists and is not empty': 'a resumed run goes on in its folder',
    'The number of training batches': 'the logging interval suits large sets; epochs are logged anyway',
    'Total length of .* across ranks is zero': 'pairs without labeled pictures have nothing to be measured on',
    'The .* does not have many workers': 'data.num_workers says how many there are to be',
    r'module\(s\) in eval mode': 'frozen towers are, and the poisoned model that a repair compares with',
    'Precision bf16-mixed is not supported by the model summary': 'the summary counts weights, which are float32',
}
EXPECTED_LOG_LINES = (
    'litlogger',  # an advertisement
    'No pretrained weights loaded',  # training from scratch is intended
    'Detected KeyboardInterrupt',  # the command says so itself
)


def hide_expected_warnings() -> None:
    """Hides warnings and log lines in which libraries report what we intend."""
    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings('ignore', f'.*{message}')
    for name in ('', 'lightning.pytorch.utilities.rank_zero'):
        logging.getLogger(name).addFilter(_is_unexpected)


def _is_unexpected(record: logging.LogRecord) -> bool:
    return not any(words in record.getMessage() for words in EXPECTED_LOG_LINES)


def import_modules() -> None:
    """Imports every file of the project, so that a class in a new file can be named without being registered."""
    for package in (lightning_modules, datamodules, callbacks):
        for module in pkgutil.walk_packages(package.__path__, f'{package.__name__}.'):
            importlib.import_module(module.name)


def import_object(path: str) -> Any:
    """The class or function at a dotted path."""
    module, _, name = path.rpartition('.')
    return getattr(importlib.import_module(module), name)


class CommandLine(LightningCLI):
    """Runs one subcommand, the only one whose parser is built.

    Args:
        arguments: What follows the command's name in a shell, the subcommand first.

    Attributes:
        arguments: The arguments without ``--traceback``.
        run_folder: Makes the folder of the run, and removes it after a failed start.
        watch: Ends this process when another one of the run has ended.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = place_csv_logger([argument for argument in arguments if argument != '--traceback'])
        self.run_folder, self.watch = RunFolder(), ProcessWatch()
        super().__init__(
            CLIP,
            PairsDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,  # its flags would silently replace the optimizer of the module
            parser_class=Parser,
            parser_kwargs=_parser_arguments(),
            save_config_callback=ResolvedConfig,
            args=self.arguments,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {name: FILLED_IN if name in TOOLS else DATA_ARGUMENTS for name in SUBCOMMANDS}

    # --- options ----------------------------------------------------------------------------------------------------

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument('--name', type=str, default='run', help='Name of the run: its folder, and its name in W&B.')
        for slot, base in SLOTS.items():
            slot_class = import_object(base)
            parser.add_lightning_class_args(slot_class, f'callbacks.{slot}', subclass_mode=True, required=False)

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        self._subcommand_parsers = {}
        group = parser.add_subcommands()
        name = self.arguments[0]
        help = f'{summarize(name)} {WHERE_HELP_IS.format(name)}'
        subparser = self._prepare_subcommand_parser(L.Trainer, name, description=help, **kwargs.get(name, {}))
        self._subcommand_parsers[name] = subparser
        group.add_subcommand(name, subparser)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        if subcommand not in TOOLS:
            parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        else:
            parser = self.init_parser(**kwargs)
            self._add_arguments(parser)
            added = parser.add_function_arguments(tool(subcommand), skip={*FILLED_IN})
            self._subcommand_method_arguments[subcommand] = added
        if subcommand == 'predict':  # callbacks keep what they need; the embeddings of all pairs would fill the memory
            parser.set_defaults({'return_predictions': False})
        if subcommand in MEASURE:  # Lightning would print a column for each set, and every number in each of them
            parser.set_defaults({'verbose': False})
        if subcommand in NEED_WEIGHTS:
            help = 'Measure a model with random weights instead of refusing to.'
            parser.add_argument('--allow_untrained', type=bool, default=False, help=help)
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        # LightningCLI's method also warns if `sys.argv` has arguments, as under pytest.
        root = cast(Parser, parser)
        self.config = root.parse_args(self.arguments)
        subcommand = self.config.subcommand
        check_seeds(self.config[subcommand].as_dict())
        root.keep_written(subcommand, cast(Parser, self._subcommand_parsers[subcommand]))

    def _parse_ckpt_path(self) -> None:
        """Does nothing; LightningCLI would let a checkpoint override the configuration, even the model class."""

    # --- objects ----------------------------------------------------------------------------------------------------

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        check_trainer(vars(config.trainer), str(self.subcommand))
        check_name(config.name)
        parent = place_of(str(self.subcommand), config).parent
        if config.get('ckpt_path') == 'auto':
            newest = newest_checkpoint(parent, _checkpoint_folder(config))
            config.ckpt_path = newest and str(newest)
        if config.get('ckpt_path') is not None:
            checkpoint = choose_checkpoint(config.ckpt_path, parent, _checkpoint_folder(config))
            config.ckpt_path = str(checkpoint)
            check_run(place_of(str(self.subcommand), config), config)
            if self.subcommand in NEED_WEIGHTS:
                warn_of_unfinished(checkpoint)
        has_weights = config.get('ckpt_path') is not None or _starts_trained(config.model)
        if self.subcommand in NEED_WEIGHTS and not has_weights and not config.allow_untrained:
            fail(
                f'{self.subcommand} would measure random weights: give --ckpt_path or --model.init_from, '
                f'or --allow_untrained=true if that is what you want.'
            )

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        config = {**self._get(self.config_init, 'trainer', default={}), **kwargs}
        by_slot = self._get(self.config_init, 'callbacks')
        switched_off = {'checkpoint'} if config.get('enable_checkpointing') is False else set()
        slot_callbacks = [by_slot.get(slot) for slot in SLOTS if slot not in switched_off]
        shows_progress = config.get('enable_progress_bar') is not False
        config['callbacks'] = with_progress_bar(config.get('callbacks'), shows_progress)
        config['plugins'] = with_slurm(_with_checkpoint_io(config.get('plugins')))
        refuse_checkpoints_of_others(config.get('default_root_dir'))
        if self.subcommand not in TOOLS:  # tools have no run folder
            config['logger'] = with_run_log(config.get('logger'))
        ours = [self.watch, Agreement(), self.run_folder, TrainingPlan(), WandbFiles(), LastEvaluation()]
        with refused_by_lightning():
            return self._instantiate_trainer(config, [*ours, *filter(None, slot_callbacks)])

    # --- running ----------------------------------------------------------------------------------------------------

    def _run_subcommand(self, subcommand: str) -> None:
        if subcommand in TOOLS:
            self._run_tool(subcommand)
            return
        seeds = f'd{self.datamodule.seed}-t{self._get(self.config_init, "seed_everything")}'
        try:
            self.datamodule.check_shares(self.trainer.world_size, subcommand)  # before hours of decoding, as the next
            check_launch(self.trainer)
            self.run_folder.create(self.trainer, place_of(subcommand, self.config[subcommand]), seeds)
            super()._run_subcommand(subcommand)
        except (KeyboardInterrupt, SystemExit, SIGTERMException):
            if subcommand == 'fit' and self.run_folder.started and (said := how_to_resume(self.run_folder.path)):
                print(f'\n{said}', flush=True)
            raise
        except Exception as error:
            if users_mistake(error) is None and (lost := self.watch.why(error)):
                fail(without_process(lost), LOST)
            raise
        finally:
            self.run_folder.close()

    def _run_tool(self, name: str) -> None:
        function = tool(name)
        filled_in = {'device': self.trainer.strategy.root_device, 'epochs': self.trainer.max_epochs}
        arguments = {**self._prepare_subcommand_kwargs(name), **filled_in}
        function(**{key: arguments[key] for key in inspect.signature(function).parameters})

    def after_validate(self) -> None:
        if self.trainer.is_global_zero:
            metrics = self.trainer.callback_metrics
            print(describe_measurements(metrics) or NOTHING_MEASURED, flush=True)

    after_test = after_validate

    def after_fit(self) -> None:
        if folder := self.run_folder.mark_done(self.trainer):
            print(last_word(self.trainer, folder), flush=True)
        for callback in cast(Any, self.trainer).callbacks:  # missing from its type
            if distrust := getattr(callback, 'distrust', ''):
                fail(distrust, DISTRUST)
        if not self.run_folder.started and self.trainer.is_global_zero:
            print('Nothing was left to train: to go on, set a larger trainer.max_epochs.', flush=True)


def run(arguments: Sequence[str], command_line: type[CommandLine] = CommandLine) -> CommandLine:
    """Runs a command whose options have been checked; see :func:`experiments.cli.main`."""
    hide_expected_warnings()
    import_modules()
    with short_errors(arguments):
        return command_line(arguments)


def _parser_arguments() -> dict[str, Any]:
    """Keyword arguments of the root parser and of each subcommand's."""
    of_subcommand = {'allow_abbrev': False, 'default_config_files': [str(DEFAULTS)]}
    root = {'prog': 'clipward', 'description': DESCRIPTION, 'parser_mode': 'omegaconf+', 'allow_abbrev': False}
    return {**root, **{name: {**of_subcommand} for name in SUBCOMMANDS}}


def tool(name: str) -> Callable[..., None]:
    """The function behind a subcommand."""
    return import_object(f'experiments.tools.{name}.{name}')


def _starts_trained(model: Any) -> bool:
    arguments = model.get('init_args') or {}
    return bool(arguments.get('init_from') or arguments.get('pretrained'))


def _checkpoint_folder(config: Any) -> str | None:
    arguments = getattr(config.callbacks.checkpoint, 'init_args', None)
    return arguments.get('dirpath') if arguments else None


def _with_checkpoint_io(plugins: Any) -> list[Any]:
    """Adds atomic checkpoint writing to the configured plugins, unless one of them already handles checkpoints."""
    given = list(plugins) if isinstance(plugins, list | tuple) else [plugins] * (plugins is not None)
    return given if any(isinstance(p, CheckpointIO) for p in given) else [*given, AtomicCheckpointIO()]
