"""Tables and figures from finished runs: ``python -m experiments.report runs/clip_toy runs/safeclip_toy``.

Runs of one name and different seeds become one row: hits and counts of an attack are added up, so that the
interval is that of all images together; other numbers are means, with the smallest and the largest behind them.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from callbacks.attack_success import wilson_interval
from callbacks.plots import COLORS, MARKERS
from datamodules.usage_error import UsageError

ESTABLISHED = 0.5  # success without a defense from which on a defense has something to show
_KEPT = ('asr/', 'zero_shot/', 'partition/', 'cost/')


@dataclass(frozen=True)
class Result:
    """What a run measured.

    Attributes:
        name: Name of the run; runs that differ in nothing but the seed share it.
        seed: Seed of training.
        epochs: Epochs trained.
        series: Metric -> epochs trained when it was measured and value, in the order of epochs.
        seconds: Training, sweeps and mixtures, without evaluation.
        poisons: Attack -> poisoned pairs that it made, trained on or, in an unpoisoned twin, not.
    """

    name: str
    seed: int
    epochs: int
    series: dict[str, list[tuple[int, float]]]
    seconds: float
    poisons: dict[str, int] = field(default_factory=dict)

    def last(self, metric: str) -> float | None:
        """The latest value of a metric."""
        return self.series[metric][-1][1] if self.series.get(metric) else None

    def first(self, metric: str) -> float | None:
        """The earliest value of a metric."""
        return self.series[metric][0][1] if self.series.get(metric) else None

    @property
    def attacks(self) -> list[str]:
        """Attacks whose success was measured."""
        return [m[4:-5] for m in self.series if m.startswith('asr/') and m.endswith('_hits')]


def read_run(folder: Path) -> Result:
    """Reads the newest version of a run, and the earlier ones that it resumed, epoch by epoch.

    Raises:
        UsageError: If the folder holds no run.
    """
    versions = sorted(folder.glob('version_*'), key=lambda path: int(path.name.rpartition('_')[2])) or [folder]
    files = [version / 'metrics.csv' for version in versions if (version / 'metrics.csv').is_file()]
    if not files:
        raise UsageError(f'{folder} holds no metrics.csv: give the folder of a run, such as runs/safeclip_toy.')
    config = yaml.safe_load((files[-1].parent / 'config.yaml').read_text())
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for file in files:  # the newest attempt wins
        with open(file, newline='') as lines:
            for line in csv.DictReader(lines):
                for metric, value in line.items():
                    if value and metric.startswith(_KEPT):
                        values[metric][int(line['epoch']) + 1] = float(value)
    series = {metric: sorted(by_epoch.items()) for metric, by_epoch in sorted(values.items())}
    spent = ('cost/train_s', 'cost/sweep_s', 'cost/mixture_s')
    seconds = sum(value for metric in spent for _, value in series.get(metric, []))
    epochs, manifest = config['trainer']['max_epochs'], files[-1].parent / 'manifest.parquet'
    made = Counter(pq.read_table(manifest, columns=['attack'])['attack'].to_pylist()) if manifest.exists() else {}
    return Result(config['name'], config['seed_everything'], epochs, series, seconds, dict(made))


def save(result: Result, path: Path) -> None:
    """Writes a result as JSON, numbers to six digits: small enough to be kept under version control."""
    fields = asdict(result)
    fields['series'] = {m: [[e, float(f'{v:.6g}')] for e, v in points] for m, points in result.series.items()}
    fields['seconds'] = round(result.seconds, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields) + '\n')


def load(path: Path) -> Result:
    """Reads what :func:`save` wrote."""
    fields: dict[str, Any] = json.loads(path.read_text())
    fields['series'] = {m: [(e, v) for e, v in points] for m, points in fields['series'].items()}
    return Result(**fields)


def by_name(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Results of one name together, names in the order of first appearance."""
    rows: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        rows[result.name].append(result)
    return dict(rows)


def table(results: Sequence[Result]) -> str:
    """A Markdown table, a row for each name."""
    attacks = list(dict.fromkeys(attack for result in results for attack in result.attacks))
    head = ['run', 'seeds', 'zero-shot', *(f'{a} ASR [95 %] (clean)' for a in attacks)]
    head += [
        'first split: share',
        *(f'leak {a}' for a in attacks),
        'last split: share',
        'contamination',
        'training, s',
    ]
    lines = [head, ['---'] * len(head)]
    for name, runs in by_name(results).items():
        line = [name, str(len(runs)), _spread(_finals(runs, _accuracy(runs[0])))]
        line += [attack_cell(runs, attack) for attack in attacks]
        line += [_spread(_firsts(runs, 'partition/share'))]
        line += [_spread(_firsts(runs, f'partition/leak/{attack}')) for attack in attacks]
        line += [_spread(_finals(runs, f'partition/{what}')) for what in ('share', 'contamination')]
        lines.append([*line, f'{sum(r.seconds for r in runs) / len(runs):.0f}'])
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def attack_table(cells: Mapping[str, Mapping[str, Sequence[Result]]], undefended: str | None = None) -> str:
    """A Markdown table, a row for each attack and a column for each method.

    Args:
        cells: Set of attacks -> method -> runs, repetitions with other seeds.
        undefended: Method whose success says whether an attack works; under ``ESTABLISHED``, a row says it does not.
    """
    methods = list(dict.fromkeys(method for runs in cells.values() for method in runs))
    lines = [['attack', 'poisons', *methods], ['---'] * (2 + len(methods))]
    for group, by_method in cells.items():
        together = [run for runs in by_method.values() for run in runs]
        names = list(dict.fromkeys(attack for run in together for attack in run.attacks))
        for attack in names:
            weak = _measured(by_method.get(undefended or '', ()), attack) < ESTABLISHED
            label = _label(attack, group, alone=len(names) == 1) + ': attack not established' * weak
            made = sorted({run.poisons[attack] for run in together if attack in run.poisons})
            line = [label, ' to '.join(map(str, made)) or '-']
            lines.append(line + [attack_cell(by_method.get(method, ()), attack) for method in methods])
        accuracy = [_finals(runs, _accuracy(runs[0])) if (runs := by_method.get(m, ())) else [] for m in methods]
        lines.append([_label('zero-shot accuracy', group), '', *map(_spread, accuracy)])
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _label(what: str, group: str, alone: bool = False) -> str:
    if not group:
        return what
    return group if alone else f'{what} ({group})'


def _measured(runs: Sequence[Result], attack: str) -> float:
    """Success over all images of all runs, NaN if there are none."""
    hits, n = (sum(_finals(runs, f'asr/{attack}_{what}')) for what in ('hits', 'n'))
    return hits / n if n else math.nan


def attack_cell(runs: Sequence[Result], attack: str) -> str:
    """Hits of all images of all seeds, their interval, and the rate without the attack."""
    hits, n = (int(sum(_finals(runs, f'asr/{attack}_{what}'))) for what in ('hits', 'n'))
    if not n:
        return '-'
    low, high = wilson_interval(hits, n)
    clean = _finals(runs, f'asr/{attack}_clean')
    rate = f'{hits / n:.3f} [{low:.3f}, {high:.3f}]' if n > 100 else f'{hits}/{n} [{low:.2f}, {high:.2f}]'
    return rate + (f' ({sum(clean) / len(clean):.3f})' if clean else '')


def figure(results: Sequence[Result]) -> Figure:
    """Success of each attack with its interval, and accuracy, against the epochs trained, a curve for each name."""
    attacks = list(dict.fromkeys(attack for result in results for attack in result.attacks))
    panels = {f'asr/{a}': f'{a}: attack success rate' for a in attacks}
    panels[_accuracy(results[0])] = 'zero-shot accuracy'
    drawn = Figure(figsize=(3.6 * len(panels), 3.4), layout='constrained')
    axes = drawn.subplots(1, len(panels), squeeze=False)[0]
    for axis, (metric, title) in zip(axes, panels.items(), strict=True):
        _draw_panel(axis, by_name(results), metric, title)
    handles, names = axes[0].get_legend_handles_labels()
    drawn.legend(handles, names, loc='outside lower center', ncols=len(names), frameon=False)
    return drawn


def trade_off(results: Sequence[Result]) -> Figure:
    """Success of each attack against zero-shot accuracy at the end, a point for each run: low and far right is good."""
    attacks = list(dict.fromkeys(attack for result in results for attack in result.attacks))
    drawn = Figure(figsize=(4.4 * len(attacks), 3.8), layout='constrained')
    axes = drawn.subplots(1, len(attacks), squeeze=False)[0]
    for axis, attack in zip(axes, attacks, strict=True):
        for place, (name, runs) in enumerate(by_name(results).items()):
            rates = [(run.last(_accuracy(run)), run.last(f'asr/{attack}')) for run in runs]
            points = [(accuracy, rate) for accuracy, rate in rates if None not in (accuracy, rate)]
            color, marker = COLORS[place % len(COLORS)], MARKERS[place % len(MARKERS)]
            axis.plot(*zip(*points, strict=True), marker, color=color, label=name, alpha=0.85) if points else None
        axis.set(title=attack, xlabel='zero-shot accuracy', ylabel='attack success rate', ylim=(-0.03, 1.03))
        axis.grid(alpha=0.25)
    handles, names = axes[0].get_legend_handles_labels()
    drawn.legend(handles, names, loc='outside lower center', ncols=min(len(names), 5), frameon=False)
    return drawn


def _draw_panel(axis: Axes, rows: Mapping[str, Sequence[Result]], metric: str, title: str) -> None:
    for place, (name, runs) in enumerate(rows.items()):
        color, marker = COLORS[place % len(COLORS)], MARKERS[place % len(MARKERS)]
        for number, run in enumerate(runs):
            points, low, high = (run.series.get(metric + end, []) for end in ('', '_low', '_high'))
            axis.plot(*zip(*points, strict=True), color=color, marker=marker, markersize=4, alpha=0.85,
                      label=name if not number else None) if points else None  # fmt: skip
            epochs, below, above = [x for x, _ in low], [y for _, y in low], [y for _, y in high]
            axis.fill_between(epochs, below, above, color=color, alpha=0.1, linewidth=0)
    axis.set(title=title, xlabel='epochs trained', ylim=(-0.03, 1.03))
    axis.grid(alpha=0.25)


def _accuracy(result: Result) -> str:
    return next((m for m in result.series if m.startswith('zero_shot/') and 'top5' not in m), 'zero_shot/heldout')


def _finals(runs: Sequence[Result], metric: str) -> list[float]:
    return [value for run in runs if (value := run.last(metric)) is not None]


def _firsts(runs: Sequence[Result], metric: str) -> list[float]:
    return [value for run in runs if (value := run.first(metric)) is not None]


def _spread(values: Sequence[float]) -> str:
    """Mean, and from where to where."""
    if not values:
        return '-'
    mean = f'{sum(values) / len(values):.3f}'
    return mean if len(values) == 1 else f'{mean} ({min(values):.3f} to {max(values):.3f})'


def main() -> None:
    """Prints the table of some runs and draws their figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', nargs='+', type=Path, help='folders of runs, or results that were saved from them')
    parser.add_argument('--figure', type=Path, help='PNG to draw')
    parser.add_argument('--trade-off', type=Path, help='PNG to draw of success against accuracy')
    parser.add_argument('--save', type=Path, help='folder to keep the results in, one small JSON file each')
    options = parser.parse_args()
    results = [load(path) if path.suffix == '.json' else read_run(path) for path in options.runs]
    print(table(results))
    for path, draw in ((options.figure, figure), (options.trade_off, trade_off)):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(results).savefig(path, dpi=150)
            print(f'figure: {path}')
    for result in results if options.save else []:
        save(result, options.save / f'{result.name}_{result.seed}.json')


if __name__ == '__main__':
    main()
