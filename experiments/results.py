"""What a finished run measured: read from the run's folder, kept as one small JSON file."""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from callbacks.metric_names import (
    ASR_PREFIX,
    ZERO_SHOT_PREFIX,
    ZERO_SHOT_TOP5_PREFIX,
    parse_asr_metric,
    renamed_since_version_1,
    zero_shot_metric,
)
from datamodules.files.atomic import write_text
from datamodules.usage_error import UsageError

VERSION = 2  # of result files; a file without this key is of version 1, which named metrics differently
KEPT_PREFIXES = (ASR_PREFIX, ZERO_SHOT_PREFIX, ZERO_SHOT_TOP5_PREFIX, 'partition/', 'cost/')
TRAINING_COSTS = ('cost/train_s', 'cost/sweep_s', 'cost/mixture_s')


@dataclass(frozen=True)
class Result:
    """What a run measured.

    Attributes:
        name: Name of the run; repetitions with other seeds share it.
        seed: Seed of training.
        epochs: Planned epochs.
        series: Metric -> points ``(epochs trained, value)``, in ascending order of epochs.
        seconds: Seconds of training, sweeps and mixture fits, without evaluation.
        poisons: Attack -> number of its poisoned pairs in the manifest. With ``data.poison=false``, these are the pairs
            that the run did not train on.
    """

    name: str
    seed: int
    epochs: int
    series: dict[str, list[tuple[int, float]]]
    seconds: float
    poisons: dict[str, int] = field(default_factory=dict)

    def last(self, metric: str) -> float | None:
        """Latest value of a metric; ``None`` if it was not measured."""
        return self.series[metric][-1][1] if self.series.get(metric) else None

    def first(self, metric: str) -> float | None:
        """Earliest value of a metric; ``None`` if it was not measured."""
        return self.series[metric][0][1] if self.series.get(metric) else None

    @property
    def attacks(self) -> list[str]:
        """Attacks whose success was measured."""
        names = map(parse_asr_metric, self.series)
        return [name.attack for name in names if name and name.what == 'hits']

    @property
    def accuracy_metric(self) -> str:
        """Name of the zero-shot accuracy on the clean set that is first in alphabetical order."""
        metrics = (metric for metric in self.series if metric.startswith(ZERO_SHOT_PREFIX))
        return next(metrics, zero_shot_metric('heldout'))


def read_run(folder: Path) -> Result:
    """Reads a run from its folder.

    A run that was resumed has several ``version_*`` folders. The values of an epoch come from the newest folder that
    trained it.

    Raises:
        UsageError: If the folder does not hold a run.
    """
    versions = sorted(folder.glob('version_*'), key=lambda path: int(path.name.rpartition('_')[2])) or [folder]
    files = [version / 'metrics.csv' for version in versions if (version / 'metrics.csv').is_file()]
    if not files:
        raise UsageError(f'{folder} holds no metrics.csv: give the folder of a run, such as runs/safeclip_toy.')
    config = yaml.safe_load((files[-1].parent / 'config.yaml').read_text())
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for file in files:  # in ascending order of versions: later values replace earlier ones
        for metric, epochs, value in _read_metrics(file):
            values[metric][epochs] = value
    series = {metric: sorted(by_epoch.items()) for metric, by_epoch in sorted(values.items())}
    seconds = sum(value for metric in TRAINING_COSTS for _, value in series.get(metric, []))
    poisons = _count_poisons(files[-1].parent / 'manifest.parquet')
    return Result(config['name'], config['seed_everything'], config['trainer']['max_epochs'], series, seconds, poisons)


def _read_metrics(file: Path) -> Iterable[tuple[str, int, float]]:
    """Current name, epochs trained and value of every measurement in a ``metrics.csv``."""
    with open(file, newline='') as lines:
        reader = csv.DictReader(lines)
        renamed = renamed_since_version_1(reader.fieldnames or [])
        for line in reader:
            for metric, value in line.items():
                if value and metric.startswith(KEPT_PREFIXES):
                    yield renamed.get(metric, metric), int(line['epoch']) + 1, float(value)


def _count_poisons(manifest: Path) -> dict[str, int]:
    if not manifest.exists():
        return {}
    return dict(Counter(pq.read_table(manifest, columns=['attack'])['attack'].to_pylist()))


def save(result: Result, path: Path) -> None:
    """Writes a result as JSON with six significant digits, small enough to keep under version control."""
    fields = {'version': VERSION, **asdict(result)}
    fields['series'] = {m: [[e, float(f'{v:.6g}')] for e, v in points] for m, points in result.series.items()}
    fields['seconds'] = round(result.seconds, 1)
    write_text(path, json.dumps(fields) + '\n')


def load(path: Path) -> Result:
    """Reads a file that :func:`save` wrote, in this version or version 1.

    Raises:
        UsageError: If the file is not a result, or if a later release wrote it.
    """
    fields: Any = json.loads(path.read_text())
    if not isinstance(fields, dict) or 'series' not in fields:
        raise UsageError(f'{path} is not a result file: give a run folder, or a JSON file saved from one.')
    version = fields.pop('version', 1)
    if version > VERSION:
        raise UsageError(
            f'{path} is a result file of version {version}, but this release reads up to {VERSION}: read it with '
            'the release that wrote it.'
        )
    renamed = renamed_since_version_1(fields['series']) if version == 1 else {}
    series = {renamed.get(m, m): [(e, v) for e, v in points] for m, points in fields['series'].items()}
    return Result(**{**fields, 'series': dict(sorted(series.items()))})


def group_by_name(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Name -> its results, in the order of first appearance."""
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        groups[result.name].append(result)
    return dict(groups)


def attacks_in(results: Iterable[Result]) -> list[str]:
    """Attacks whose success any of the results measured, in the order of first appearance."""
    return list(dict.fromkeys(attack for result in results for attack in result.attacks))


def last_values(results: Iterable[Result], metric: str) -> list[float]:
    """Latest value of a metric in each result that measured it."""
    return [value for result in results if (value := result.last(metric)) is not None]


def first_values(results: Iterable[Result], metric: str) -> list[float]:
    """Earliest value of a metric in each result that measured it."""
    return [value for result in results if (value := result.first(metric)) is not None]
