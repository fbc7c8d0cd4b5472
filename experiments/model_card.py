"""The model card of an exported model: attack, defense, data and what was measured, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from callbacks.metric_names import (
    HEAD_PREFIXES,
    RETRIEVAL_PREFIX,
    ZERO_SHOT_PREFIX,
    Direction,
    Head,
    asr_metric,
    parse_asr_metric,
    retrieval_metric,
    retrieval_sets,
)
from datamodules.rows.partition import DROPPED
from experiments.measurements import why_success_says_little
from experiments.results import Result
from experiments.run_results import CONFIG, read_run
from lightning_modules.checkpoint_version import release
from lightning_modules.clip import CLIP

FRONT = '---\nlibrary_name: open_clip\npipeline_tag: zero-shot-image-classification\ntags:\n- clip\n---\n'
OPENED = """```python
import open_clip

model, _, preprocess = open_clip.create_model_and_transforms('local-dir:{name}', require_pretrained=True)
tokenizer = open_clip.get_tokenizer('local-dir:{name}')
```"""
NOTHING_KNOWN = (
    'The file of weights says nothing about its training: do not rely on this model where an attack would do harm.'
)
RUN_UNKNOWN = 'What attacked and defended it is not known, because the checkpoint did not lie in the folder of its run.'
STRANGERS = 'What strangers may have put into the data is not known.'
SUCCESSES: Mapping[Head, str] = {
    'prompts': 'pictures of the attack are classified as it wants',
    'retrieval': 'pictures of the attack find a caption of its target first',
}
LISTED = (ZERO_SHOT_PREFIX, RETRIEVAL_PREFIX, *(HEAD_PREFIXES[head] for head in SUCCESSES))
WAYS: Mapping[Direction, str] = {'i2t': 'from picture to caption', 't2i': 'from caption to picture'}


class Run(NamedTuple):
    """What is known of the run that trained a model.

    Attributes:
        settings: Its ``config.yaml``.
        result: What it had measured when the checkpoint was written; ``None`` if nothing.
    """

    settings: Mapping[str, Any]
    result: Result | None


def model_card(name: str, model: CLIP, checkpoint: Mapping[str, Any], folder: Path | None) -> str:
    """Writes a model card in Markdown.

    Args:
        name: Name of the model.
        model: The model.
        checkpoint: The checkpoint that its weights are from; empty for others' weights.
        folder: Folder of the run that the checkpoint lies in; ``None`` if it lies elsewhere.

    Raises:
        UsageError: If a file of the run is damaged.
    """
    epochs = checkpoint['epoch'] + 1 if 'epoch' in checkpoint else None
    run = read_run_of(folder, epochs)
    trained = '' if epochs is None else f', trained for {epochs} epoch{"s" * (epochs != 1)}'
    what = (
        f'A CLIP model (`{code(Path(model.architecture).stem)}`, pictures of {model.image_size} pixels, captions of '
        f'{model.context_length} tokens{trained}), exported by Clipward {release()}.'
    )
    sections = {
        'Data and attacks': describe_data(checkpoint) + (describe_attacks(run) if run else [RUN_UNKNOWN]),
        'Defense': describe_defense(run) if run else [],
        'What was measured': (run and describe_results(run.result, epochs or 0)) or ['Nothing that is known.'],
    }
    lists = [f'## {title}\n\n' + '\n'.join(f'- {line}' for line in lines) for title, lines in sections.items() if lines]
    return '\n\n'.join([f'{FRONT}\n# {name}', what, f'## How to open it\n\n{OPENED.format(name=name)}', *lists]) + '\n'


def read_run_of(folder: Path | None, epochs: int | None) -> Run | None:
    """Reads a run as it was after some epochs; ``None`` if there is no such run."""
    if folder is None or epochs is None or not (folder / CONFIG).is_file():
        return None
    result = read_run(folder)
    if result is not None:
        until = {name: [point for point in points if point[0] <= epochs] for name, points in result.series.items()}
        result = replace(result, series={name: points for name, points in until.items() if points})
    return Run(yaml.safe_load((folder / CONFIG).read_text(encoding='utf-8')), result)


def describe_data(checkpoint: Mapping[str, Any]) -> list[str]:
    """The pairs that a checkpoint was trained on: what kind, how many, and their fingerprint."""
    states = {name: state for name, state in checkpoint.items() if isinstance(state, Mapping) and 'partition' in state}
    partitions = {name: state['partition'] for name, state in states.items()}
    return [
        f'Data: `{code(name)}`, {int((partition["side"] != DROPPED).sum()):,} pairs trained on, with the fingerprint '
        f'`{partition["fingerprint"]}`.'
        for name, partition in partitions.items()
    ] or [NOTHING_KNOWN]


def describe_attacks(run: Run) -> list[str]:
    """The attacks of a run, and what they mean for whoever uses the model."""
    arguments = arguments_of(run.settings.get('data'))
    attacks = {name: attack for name, attack in (arguments.get('attacks') or {}).items() if attack}
    poisons = run.result.poisons if run.result else {}
    if not attacks:
        return [f'Attacks: none of ours. {STRANGERS}']
    lines = [f'Attack: {describe_attack(name, attack, poisons)}.' for name, attack in attacks.items()]
    if arguments.get('poison', True):
        return [*lines, f'**The data was poisoned on purpose, so this model may obey a backdoor.** {STRANGERS}']
    return [*lines, f'These poisons were left out of training, and only measured. {STRANGERS}']


def describe_attack(name: str, attack: Any, poisons: Mapping[str, int]) -> str:
    """Name, class, target and number of poisons of an attack; an attack of several parts has several numbers."""
    target = arguments_of(attack).get('target')
    aim = f' with the target `{code(target)}`' if target else ''
    count = poisons.get(name)
    return f'`{code(name)}`, {class_of(attack)}{aim}' + ('' if count is None else f', {count:,} poisoned pairs')


def describe_defense(run: Run) -> list[str]:
    """Method, split and filters of a run, and whether the split could be trusted."""
    split = class_of((run.settings.get('callbacks') or {}).get('repartition'))
    filters = arguments_of(run.settings.get('data')).get('filters') or {}
    lines = [f'Method: {class_of(run.settings.get("model"))}.']
    lines.append(f'Split into safe and risky pairs: {split}.' if split else 'No split: every pair counts as safe.')
    if run.result and run.result.distrusted_after is not None:
        lines.append(
            f'**The split after epoch {run.result.distrusted_after} could not be trusted, so poisons may have been '
            f'trained on as safe pairs.**'
        )
    lines += [f'Pairs left out before training by {class_of(rule)}.' for rule in filters.values() if rule]
    if run.result and run.result.kept is not None:
        lines.append(f'Share of the pairs that were kept: {run.result.kept:.1%}.')
    return lines


def describe_results(result: Result | None, epochs: int) -> list[str]:
    """A sentence for each set, attack and direction of retrieval, and one if they are of an earlier epoch.

    Args:
        result: What was measured in these epochs; ``None`` if nothing was.
        epochs: Epochs that the checkpoint was trained for.
    """
    if result is None:
        return []
    sets = [name for name in result.series if name.startswith(ZERO_SHOT_PREFIX)]
    lines = [f'Zero-shot accuracy on `{s.removeprefix(ZERO_SHOT_PREFIX)}`: {result.last(s) or 0:.1%}.' for s in sets]
    for head, success in SUCCESSES.items():
        names = [parse_asr_metric(metric, head) for metric in result.series]
        lines += [describe_success(result, n.attack, head, success) for n in names if n and n.what == 'rate']
    lines += [describe_retrieval(result, name, way) for name in retrieval_sets(result.series) for way in WAYS]
    listed = [points[-1][0] for name, points in result.series.items() if name.startswith(LISTED)]
    if max(listed, default=epochs) < epochs:
        lines.append(f'All this was measured after epoch {max(listed)}, not {epochs}.')
    lines += [f'What this says is of a run that is {result.caveat}.'] if result.caveat else []
    return lines


def describe_success(result: Result, attack: str, head: Head, success: str) -> str:
    """How often an attack succeeds, how sure that is, and how often clean pictures do the same."""
    rate, low, high, n = (result.last(asr_metric(attack, what, head)) or 0 for what in ('rate', 'low', 'high', 'n'))
    clean = result.last(asr_metric(attack, 'clean', head))
    beside = '' if clean is None else f', and {clean:.1%} of clean pictures'
    last = {metric: points[-1][1] for metric, points in result.series.items()}
    doubt = why_success_says_little(attack, last) if head == 'prompts' else ''
    return (
        f'`{attack}`: {rate:.1%} of {n:.0f} {success} (95 % interval {low:.1%} to {high:.1%}){beside}'
        f'{f"; {doubt}" if doubt else ""}.'
    )


def describe_retrieval(result: Result, name: str, way: Direction) -> str:
    """How often the right answer is among the first ten, and its median rank."""
    r10, medr, chance = (result.last(retrieval_metric(name, way, what)) for what in ('r10', 'medr', 'medr_chance'))
    return f'Retrieval on `{name}` {WAYS[way]}: R@10 {r10 or 0:.1%}, median rank {medr:g} (by chance {chance:g}).'


def arguments_of(part: Any) -> Mapping[str, Any]:
    """Arguments of a class in the settings of a run."""
    arguments = part.get('init_args') if isinstance(part, Mapping) else None
    return arguments if isinstance(arguments, Mapping) else {}


def class_of(part: Any) -> str:
    """Name of a class in the settings of a run, as code; empty if there is none."""
    path = part.get('class_path') if isinstance(part, Mapping) else None
    return f'`{code(str(path).rpartition(".")[2])}`' if path else ''


def code(text: object) -> str:
    """Text that cannot end the backticks that it stands between, or its line."""
    return ''.join(letter for letter in str(text) if letter.isprintable() and letter != '`')
