"""Prints what a run is about to do before it takes hours to do it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, cast

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback

from callbacks.harmless import Harmless
from datamodules.attacks.base import Manifest
from datamodules.files.atomic import write_text
from datamodules.files.byte_counts import format_bytes
from datamodules.pairs import PairsDataModule
from datamodules.rows.partition import DROPPED
from lightning_modules.clip import CLIP
from lightning_modules.roclip import RoCLIP

MAX_PHASES = 6  # lines; phases that take turns more often are summed up by their names
MAX_RATE_SAMPLES = 500  # steps of a phase at which the learning rate is looked up; a cosine is smooth in between


class Phase(NamedTuple):
    """Epochs with the same objective, in a row unless :func:`sum_up` has joined them.

    Attributes:
        name: Name in the module.
        first: Its first epoch, counted from 1.
        last: Its last epoch, counted from 1.
        epochs: Number of its epochs.
        steps: Optimizer steps in it.
        lr: Learning rate at its first step, the highest one, and that at its last step.
    """

    name: str
    first: int
    last: int
    epochs: int
    steps: int
    lr: tuple[float, float, float]


def phases(module: CLIP, steps_per_epoch: int, epochs: int) -> Iterator[Phase]:
    """Phases of a run in their order, with their learning rates."""
    factor = module.schedule(steps_per_epoch, epochs)
    for name, group in groupby(range(epochs), module.phase):
        members = list(group)
        start, end = members[0] * steps_per_epoch, (members[-1] + 1) * steps_per_epoch
        sampled_steps = np.linspace(start, end - 1, min(MAX_RATE_SAMPLES, end - start)).round().astype(int)
        rates = [module.lr * factor(int(step)) for step in sampled_steps]
        lr = rates[0], max(rates), rates[-1]
        yield Phase(name, members[0] + 1, members[-1] + 1, len(members), end - start, lr)


def sum_up(phases: Sequence[Phase]) -> list[Phase]:
    """Joins phases of one name if they take turns so often that a list of them would not be read."""
    if len(phases) <= MAX_PHASES:
        return [*phases]
    return [
        _joined([phase for phase in phases if phase.name == name]) for name in dict.fromkeys(p.name for p in phases)
    ]


def _joined(parts: Sequence[Phase]) -> Phase:
    epochs, steps = sum(part.epochs for part in parts), sum(part.steps for part in parts)
    lr = parts[0].lr[0], max(part.lr[1] for part in parts), parts[-1].lr[2]
    return Phase(parts[0].name, parts[0].first, parts[-1].last, epochs, steps, lr)


def poison_counts(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Number of poisoned rows by attack and target class."""
    counts: dict[str, dict[str, int]] = {attack: {} for attack in manifest.attacks}
    pairs = manifest.table.select(['attack', 'target_class']).to_pylist()
    for pair in pairs:
        of_attack = counts[pair['attack']]
        of_attack[pair['target_class']] = of_attack.get(pair['target_class'], 0) + 1
    return counts


def describe(trainer: L.Trainer, module: CLIP, data: PairsDataModule) -> str:
    """The plan as text that fits on a screen."""
    epochs = int(trainer.max_epochs or 0)
    steps = max(1, int(trainer.estimated_stepping_batches) // max(1, epochs))
    lines = [f'Plan: {type(module).__name__} on {type(data).__name__}, {epochs} epochs of {steps:,} steps']
    lines += _pairs(data)
    lines += [_phase(phase) for phase in sum_up([*phases(module, steps, epochs)])]
    lines += cautions(module, epochs, trainer.current_epoch, len(data.trusted_rows))
    kept = {**memory_plan(data), **_weights(module)}
    lines += [_line('keeps', name, format_bytes(count)) for name, count in kept.items()]
    return '\n'.join(lines)


def cautions(module: CLIP, epochs: int, trained: int, trusted: int = 0) -> list[str]:
    """Where a resumed run goes on, what may change on the way, and what a defense has too few epochs for."""
    lines = [_line('resumes', f'after epoch {trained}', f'of {epochs}')] if trained else []
    if extra := getattr(module, 'extra_slow_epochs', 0):
        lines.append(_line('slow', f'up to {extra} more', 'taken from the mixed phase, if the split cannot be trusted'))
    if not any('cross_modal' in module.sides(epoch) for epoch in range(epochs)):
        remedy = 'raise trainer.max_epochs, or lower model.unimodal_epochs'
        lack = 'compare trusted pairs alone' if trusted else 'never compare a picture with its caption'
        lines.append(_line('beware', f'epochs 1 to {epochs}', f'{lack}: {remedy}'))
    if isinstance(module, RoCLIP) and not any(module.phase(epoch) == 'matching' for epoch in range(epochs)):
        remedy = 'raise trainer.max_epochs, or lower model.match_every'
        lines.append(
            _line('beware', f'epochs 1 to {epochs}', f'never match a picture with a caption of the pool: {remedy}')
        )
    return lines


def memory_plan(data: PairsDataModule) -> dict[str, int]:
    """Bytes that a run keeps, by name: pictures and tokens on disk, bookkeeping in memory."""
    picture, rows = 3 * data.stored_size**2, len(data.table)
    kept = {'split and scores': rows * (1 + 4 + 4), 'tokens on disk': data.tokens.nbytes}
    if data.cache == 'memmap':
        kept['pictures on disk'] = len(data.source) * picture
    kept['poisons on disk'] = len(data.manifest) * picture
    kept['evaluation pictures'] = sum(map(len, data.evaluation_sets)) * picture
    return kept


def kept_by_filters(data: PairsDataModule) -> dict[str, Any]:
    """Share of the pairs that filters leave, and number of poisons by attack that are trained on."""
    is_trained = data.partition.side.numpy() != DROPPED
    poisons = {attack: int(is_trained[data.manifest.rows(attack)].sum()) for attack in data.manifest.attacks}
    return {'share': float(1 - data.filtered.mean()), 'poisons': poisons}


class TrainingPlan(Callback):
    """Prints the plan before training, and saves it, the manifest and what filters keep in the run's folder."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data = cast(Any, trainer).datamodule  # set by Lightning, but missing from its type
        if not (isinstance(pl_module, CLIP) and isinstance(data, PairsDataModule)):
            return
        text, folder = describe(trainer, pl_module, data), trainer.log_dir  # all ranks take part in both
        if trainer.is_global_zero:
            text = '\n'.join([text, *advice(data, epochs=int(trainer.max_epochs or 0))])
            print(text, flush=True)
            if folder and Path(folder).is_dir():
                with Harmless('writing the plan'):
                    write_text(Path(folder, 'plan.txt'), text + '\n')
                data.manifest.save(Path(folder, 'manifest.parquet'))
                if data.filters:
                    write_text(Path(folder, 'kept.json'), json.dumps(kept_by_filters(data)) + '\n')


def _line(topic: str, name: str, value: str) -> str:
    return f'  {topic:<10} {name:<28} {value}'


def _pairs(data: PairsDataModule) -> list[str]:
    counts = poison_counts(data.manifest)
    pairs = len(data.table) - data.canary_count
    is_trained = (data.partition.side[:pairs] != DROPPED).numpy()  # neither filtered nor unreadable
    trained, poisons = int(is_trained.sum()), int(is_trained[data.manifest.rows()].sum())
    share = f'{trained:,}' + f', of them {poisons:,} poisoned ({poisons / max(1, trained):.3%})' * bool(counts)
    left_out = '' if data.poison else ', measured but left out'
    dropped = f'{int(data.filtered.sum()):,} pairs left out'
    filters = [_line('filters', ', '.join(data.filters), dropped)] if data.filters else []
    count = f'{len(data.trusted_rows):,} pairs'
    trusted = [_line('trusted', type(data.trusted).__name__, count)] if data.trusted else []
    attacks = [_line('poisons', attack, _classes(of_attack) + left_out) for attack, of_attack in counts.items()]
    amounts = {name: f'{len(rows):,}' for name, rows in data.canary_rows().items()}
    planted = [_line('canaries', ', '.join(amounts), ' + '.join(amounts.values()) + ' planted')] if amounts else []
    return [_line('pairs', f'batches of {data.batch_size:,}', share), *filters, *trusted, *attacks, *planted]


def _classes(counts: Mapping[str, int]) -> str:
    """``96 towards boat`` for few classes, their number for many: each poison may have a class of its own."""
    if len(counts) > 4:
        return f'{sum(counts.values()):,} towards {len(counts)} classes'
    return ', '.join(f'{count:,} towards {name}' for name, count in counts.items()) or 'none'


def advice(data: PairsDataModule, epochs: int) -> list[str]:
    """One line for each attack on whether it is likely to work; none if the poisons are left out of training."""
    attacks = data.manifest.attacks if data.poison else ()
    return [_line('expect', attack, textwrap.shorten(_expectation(data, attack, epochs), 77)) for attack in attacks]


def _expectation(data: PairsDataModule, attack: str, epochs: int) -> str:
    """The verdict on an attack in short."""
    with Harmless(f'advice on attack {attack!r}'):
        from experiments.check.attack_check import check, rebuild_pool, summarize  # imports matplotlib

        return summarize(check(data, attack, rebuild_pool(data), epochs=epochs))
    return 'no advice, see the log'


def _phase(phase: Phase) -> str:
    epochs = f'epoch {phase.first}' if phase.first == phase.last else f'epochs {phase.first} to {phase.last}'
    if phase.epochs <= phase.last - phase.first:
        epochs = f'{phase.epochs} of {epochs}'
    first, highest, last = (f'{rate:.2g}' for rate in phase.lr)
    rate = f'lr {first}' if first == highest == last else f'lr {first}, at most {highest}, {last} at the end'
    return _line(phase.name, epochs, f'{phase.steps:,} steps, {rate}')


def _weights(module: CLIP) -> dict[str, int]:
    """Bytes of a float32 model under AdamW: weight, gradient and two moments; a checkpoint has no gradient."""
    count = sum(p.numel() for p in module.parameters())
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return {
        'model and optimizer': 4 * count + 12 * trained,
        'checkpoint on disk, two kept': 2 * (4 * count + 8 * trained),
    }
