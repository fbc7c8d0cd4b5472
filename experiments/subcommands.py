"""Names and summaries of the subcommands, readable without importing what they run."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

DESCRIPTION = 'Pre-train CLIP on image-caption pairs that you do not trust.'
WHERE_HELP_IS = (
    'What a class takes: clipward {0} --data.help CSVPairs, --model.help SafeCLIP, --data.attacks.help BadNet; without '
    'a name, the classes are listed. The options of your own pairs, and of the classes, prompts and labeled pictures '
    'that accuracy is measured with (class_names, templates, labeled, validation), are among those of CSVPairs; '
    'callbacks.zero_shot measures it.'
)
TRAINING = {  # methods of Lightning's trainer
    'fit': 'Train a model, measuring attacks and accuracy as it goes.',
    'validate': 'Measure a trained model after an epoch as training would: attack success and zero-shot accuracy.',
    'test': 'Measure a trained model once, on the same sets.',
    'predict': 'Run a trained model on every pair.',
}
TOOLS = (  # functions of `experiments.tools`
    'export', 'harden', 'optimize_patch', 'rank_images', 'check_attacks', 'inspect', 'protect', 'explain', 'audit',
    'clean', 'export_model', 'dashboard',
)  # fmt: skip
PLAIN_TOOLS = ('dashboard',)  # those that need neither a model nor data
SUBCOMMANDS = (*TRAINING, *TOOLS)
NEED_WEIGHTS = ('validate', 'test', 'predict')  # random weights give no meaningful result here
MEASURE = ('validate', 'test')  # print what they measured
FILLED_IN = {'model', 'datamodule', 'device', 'epochs'}  # parameters of a tool that are not options
DATA_ARGUMENTS = {'model', 'datamodule', 'dataloaders', 'train_dataloaders', 'val_dataloaders'}  # the same of a trainer
SLOTS = {  # callbacks in the order in which they run, whatever their order in a file, and the class each must have
    'attack_success': 'callbacks.attack_success.AttackSuccessRate',
    'zero_shot': 'callbacks.zero_shot.ZeroShot',
    'linear_probe': 'lightning.pytorch.callbacks.Callback',
    'retrieval': 'lightning.pytorch.callbacks.Callback',
    'repartition': 'callbacks.repartition.Repartition',
    'trust': 'callbacks.trust.Trust',
    'ledger': 'callbacks.ledger.ScoreLedger',
    'epoch_cost': 'callbacks.epoch_cost.EpochCost',
    'figures': 'callbacks.figures.Figures',
    'checkpoint': 'lightning.pytorch.callbacks.ModelCheckpoint',
}


def summarize(subcommand: str) -> str:
    """One line on what a subcommand does; for a tool, the first line of its docstring."""
    return TRAINING.get(subcommand) or (ast.get_docstring(tool_definition(subcommand)) or '').splitlines()[0]


def tool_definition(name: str) -> ast.FunctionDef:
    """The function of a tool as its source file has it."""
    source = Path(__file__).with_name('tools') / f'{name}.py'
    functions = [node for node in ast.parse(source.read_text()).body if isinstance(node, ast.FunctionDef)]
    return next(function for function in functions if function.name == name)


def find_subcommand(arguments: Sequence[str]) -> str | None:
    """The first argument that is neither an option nor the file of a ``--config``; ``None`` if there is none."""
    previous = ''
    for argument in arguments:
        if not argument.startswith('-') and previous not in ('-c', '--config'):
            return argument
        previous = argument
    return None


def options_with_values(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options without their dashes, each with its value, which is given after ``=`` or as the next argument."""
    for argument, following in zip(arguments, [*arguments, ''][1:], strict=True):
        option, equals, value = argument.removeprefix('--').partition('=')
        if argument.startswith('-'):
            yield option.removeprefix('-'), value if equals else following


def config_values(arguments: Sequence[str]) -> list[str]:
    """What each ``--config`` names."""
    return [value for option, value in options_with_values(arguments) if option in ('config', 'c')]
