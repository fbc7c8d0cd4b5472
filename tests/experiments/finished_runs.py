"""Folders and results of finished runs, without any training."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import yaml

from experiments.results import Result
from experiments.run_folder import DONE

CONFIG = {
    'seed_everything': 3,
    'trainer': {'max_epochs': 4},
    'model': {'class_path': 'lightning_modules.CLIP', 'init_args': {'lr': 0.1}},
    'data': {'class_path': 'datamodules.toy_pairs.ToyPairs', 'init_args': {'seed': 5}},
}


def write_version(
    run: Path,
    number: int,
    rows: list[dict[str, float]],
    name: str = 'toy',
    is_finished: bool = True,
    **changed: Any,
) -> Path:
    """Writes one ``version_*`` folder of a run, as the command leaves it.

    Args:
        run: Folder of the run's name.
        number: Number of the version.
        rows: Rows of ``metrics.csv``.
        name: Name of the run.
        is_finished: Whether training came to its end.
        **changed: Keys of ``config.yaml`` that differ from ``CONFIG``.
    """
    folder = run / f'version_{number}'
    folder.mkdir(parents=True)
    columns = sorted({column for row in rows for column in row})
    with open(folder / 'metrics.csv', 'w', newline='') as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    (folder / 'config.yaml').write_text(yaml.safe_dump({**CONFIG, 'name': name, **changed}))
    if is_finished:
        (folder / DONE).touch()
    return folder


def attacked_result(
    name: str, seed: int, hits: int, n: int, accuracy: float = 0.5, clean: float = 0.1, **fields: Any
) -> Result:
    """Result of a run under BadNet that was evaluated once, after four epochs."""
    badnet = {'rate': hits / n, 'hits': hits, 'n': n, 'clean': clean}
    values = {f'asr/badnet/{what}': value for what, value in badnet.items()} | {'zero_shot/heldout': accuracy}
    series = {metric: [(4, float(value))] for metric, value in values.items()}
    return Result(name, seed, 4, series, seconds=10.0, **fields)


def timed_result(
    name: str, seed: int, seconds: dict[str, list[float]], sweeps: dict[int, float], views: float
) -> Result:
    """Result of a run whose epochs were timed.

    Args:
        name: Name of the run.
        seed: Its seed.
        seconds: Phase -> seconds of its epochs, in order.
        sweeps: Epochs trained -> seconds of a sweep.
        views: Augmented views of a pair in each epoch.
    """
    series: dict[str, list[tuple[int, float]]] = {'cost/sweep_s': [*sweeps.items()]} if sweeps else {}
    series |= {'cost/train_s': [], 'cost/views': []}
    for phase, times in seconds.items():
        first = len(series['cost/train_s']) + 1
        series[f'cost/train_s/{phase}'] = [*enumerate(times, first)]
        series['cost/train_s'] += series[f'cost/train_s/{phase}']
        series['cost/views'] += [(epoch, views) for epoch in range(first, first + len(times))]
    total = sum(map(sum, seconds.values())) + sum(sweeps.values())
    return Result(name, seed, len(series['cost/train_s']), series, total)
