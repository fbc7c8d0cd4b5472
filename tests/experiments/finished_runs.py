"""Folders and results of finished runs, without any training."""

from __future__ import annotations

import csv
from pathlib import Path

import yaml

from experiments.results import Result


def write_version(run: Path, number: int, rows: list[dict[str, float]], name: str = 'toy') -> Path:
    """Writes one ``version_*`` folder of a run, as the command leaves it."""
    folder = run / f'version_{number}'
    folder.mkdir(parents=True)
    columns = sorted({column for row in rows for column in row})
    with open(folder / 'metrics.csv', 'w', newline='') as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    config = {'name': name, 'seed_everything': 3, 'trainer': {'max_epochs': 4}}
    (folder / 'config.yaml').write_text(yaml.safe_dump(config))
    return folder


def attacked_result(name: str, seed: int, hits: int, n: int, accuracy: float = 0.5, clean: float = 0.1) -> Result:
    """Result of a run under BadNet that was evaluated once, after four epochs."""
    badnet = {'rate': hits / n, 'hits': hits, 'n': n, 'clean': clean}
    values = {f'asr/badnet/{what}': value for what, value in badnet.items()} | {'zero_shot/heldout': accuracy}
    return Result(name, seed, 4, {metric: [(4, float(value))] for metric, value in values.items()}, seconds=10.0)
