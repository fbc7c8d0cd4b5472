"""What a run says at its end, also when it is ended before, and of a run that has none."""

from __future__ import annotations

import csv
import logging
import shlex
from collections.abc import Mapping
from pathlib import Path

import lightning as L
import numpy as np
from lightning.pytorch.utilities import rank_zero_only

from callbacks.ledger import FILE as LEDGER
from callbacks.metric_names import (
    PROBE_PREFIX,
    ZERO_SHOT_PREFIX,
    Direction,
    Head,
    asr_metric,
    retrieval_metric,
    retrieval_sets,
)
from datamodules.contracts import canaries_of, pairs_of
from datamodules.rows.partition import DROPPED, SAFE
from experiments.checkpoint_choice import FOLDER, run_of
from experiments.checkpoint_io import LAST
from experiments.measurements import measured_attacks, why_success_says_little
from experiments.results import TRUSTED
from experiments.run_folder import DONE
from experiments.tensorboard_run import FOLDER as TENSORBOARD
from experiments.wandb_run import wandb_runs

log = logging.getLogger(__name__)


def last_word(trainer: L.Trainer, folder: Path) -> str:
    """What the run measured last, where to find it, and how to go on; fits on a screen."""
    values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    epochs = trainer.current_epoch
    state = 'Stopped after' if trainer.should_stop and epochs < (trainer.max_epochs or 0) else 'Done:'
    lines = [f'{state} {epochs} epoch{"s" * (epochs != 1)} in {folder}', *_results(values)]
    if 'partition/share' in values:
        lines.append(f'  {"safe side":<12} {safe_side(trainer)}')
    lines += _trust(folder)
    files = {'checkpoint': f'{FOLDER}/{LAST}', 'metrics': 'metrics.csv', 'ledger': LEDGER, 'figures': 'figures'}
    files['TensorBoard'] = TENSORBOARD
    lines += [f'  {name:<12} {folder / file}' for name, file in files.items() if (folder / file).exists()]
    lines += [f'  {"W&B":<12} wandb sync {quoted(path)}' for path in _offline_logs(trainer)]
    if state != 'Done:' or not (folder / FOLDER / LAST).exists():
        return '\n'.join(lines)
    # `last` would be of the newest run of the name, which by then may be another one.
    more = f'--ckpt_path={quoted(folder / FOLDER / LAST)} --trainer.max_epochs={trainer.current_epoch + 10}'
    return '\n'.join([*lines, f'  {"go on":<12} clipward fit --config {quoted(folder / "config.yaml")} {more}'])


def how_to_resume(folder: Path | None) -> str:
    """The command that goes on with a run which has not come to its end; empty without a checkpoint of it."""
    if folder is None or (folder / DONE).exists() or not (checkpoint := folder / FOLDER / LAST).exists():
        return ''
    return f'To resume: clipward fit --config {quoted(folder / "config.yaml")} --ckpt_path={quoted(checkpoint)}'


def quoted(path: str | Path) -> str:
    """A path as a shell takes it."""
    return shlex.quote(str(path))


def _results(values: dict[str, float]) -> list[str]:
    lines = []
    for prefix, label in ((ZERO_SHOT_PREFIX, 'accuracy'), (PROBE_PREFIX, 'linear probe')):
        sets = [name for name in values if name.startswith(prefix)]
        lines += [f'  {label:<12} {values[name]:.3f} on {name.removeprefix(prefix)}' for name in sets]
    lines += [f'  {"retrieval":<12} {_retrieval(values, name)}' for name in retrieval_sets(values)]
    for attack in measured_attacks(values):
        lines.append(f'  {attack:<12} {_success(values, attack)}')
        through: dict[Head, str] = {'probe': 'the linear probe', 'knn': 'the k-NN', 'retrieval': 'retrieval'}
        measured = [head for head in through if asr_metric(attack, 'rate', head) in values]
        lines += [f'  {"":<12} {_success(values, attack, head)}, through {through[head]}' for head in measured]
        if reason := why_success_says_little(attack, values):
            lines.append(f'  {"":<12} {reason}')
    return lines


def _retrieval(values: Mapping[str, float], name: str) -> str:
    """How often the right caption, and the right picture, is among the first ten, beside the same by chance."""
    ways: dict[Direction, str] = {'i2t': 'from picture to caption', 't2i': 'from caption to picture'}
    found = [
        f'{values[retrieval_metric(name, way, "r10")]:.1%} {words} '
        f'(by chance {values[retrieval_metric(name, way, "r10_chance")]:.1%})'
        for way, words in ways.items()
    ]
    return f'R@10 {", ".join(found)}, on {name}'


def _success(values: Mapping[str, float], attack: str, head: Head = 'prompts') -> str:
    rate, clean = (values.get(asr_metric(attack, what, head), float('nan')) for what in ('rate', 'clean'))
    return f'{rate:.1%} success, {clean:.1%} on clean pictures'


def safe_side(trainer: L.Trainer) -> str:
    """Size of the safe side in words: of the user's pairs, and of those that were planted among them."""
    side, canaries = pairs_of(trainer).partition.side.numpy(), canaries_of(trainer).canary_rows()
    planted = np.concatenate([*canaries.values(), np.zeros(0, np.int64)])
    own = np.delete(side, planted)
    trained = own[own != DROPPED]
    of_canaries = f', and {(side[planted] == SAFE).sum():,} of the {len(planted):,} canaries' if len(planted) else ''
    return f'{(trained == SAFE).mean():.1%} of the {len(trained):,} pairs{of_canaries}'


def _trust(folder: Path) -> list[str]:
    """Whether all splits could be trusted, by what shuffled pairs and canaries said."""
    file = folder / 'metrics.csv'
    lines = file.read_text(encoding='utf-8').splitlines() if file.exists() else []
    rows = [row for row in csv.DictReader(lines) if row.get(TRUSTED)]
    judged = [row for row in rows if row[TRUSTED] != 'nan']
    if not judged:
        return []
    if doubted := [int(row['epoch']) + 1 for row in judged if not float(row[TRUSTED])]:
        said = f'{len(doubted)} of {len(judged)} splits could not be trusted, first that after epoch {doubted[0]}'
    else:
        said = f'all {len(judged)} splits' if len(judged) > 1 else 'the only split'
    leaks = {'shuffled pairs': 'partition/null_leak', 'two canaries, evidently': 'canary/evident_leak'}
    measured = {what: [float(row.get(name) or 0) for row in judged] for what, name in leaks.items()}
    highest = {what: max((value for value in values if value > 0), default=0) for what, values in measured.items()}
    passed = ', '.join(f'{leak:.1%} of {what}' for what, leak in highest.items() if leak)
    return [f'  {"trust":<12} {said}; passed at most: {passed or "none"}']


def _offline_logs(trainer: L.Trainer) -> list[str]:
    """The folders of each offline run of W&B, one for each time that the run was started or resumed."""
    runs = [logger.experiment for logger in wandb_runs(trainer) if logger.started]
    return [str(Path(run.settings.sync_dir).with_name(f'*-{run.id}')) for run in runs if run.offline is True]


@rank_zero_only
def warn_of_unfinished(checkpoint: Path) -> None:
    """Logs a warning if the run that wrote a checkpoint has not come to its end."""
    run = run_of(checkpoint)
    if run is not None and (run / 'config.yaml').exists() and not (run / DONE).exists():
        log.warning('%s is of a run that has not come to its end: there is no %s in %s.', checkpoint, DONE, run)
