"""Results as small JSON files, which can be kept under version control when the runs are deleted."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from callbacks.metric_names import AsrQuantity, asr_metric, renamed_since_version_1
from datamodules.files.atomic import write_text
from datamodules.usage_error import UsageError
from experiments.results import Result

VERSION = 2  # of result files; a file without this key is of version 1, which named metrics differently
NOT_SAVED = ('source',)


class DamagedResultError(UsageError):
    """A result file is cut, empty or something else."""


def save(result: Result, path: Path) -> None:
    """Writes a result as JSON with six significant digits.

    Raises:
        UsageError: If the file cannot be written.
    """
    fields = {key: value for key, value in asdict(result).items() if key not in NOT_SAVED}
    fields['series'] = {m: [[e, float(f'{v:.6g}')] for e, v in points] for m, points in result.series.items()}
    fields['seconds'] = round(result.seconds, 1)
    write_text(path, json.dumps({'version': VERSION, **fields}) + '\n')


def load(path: Path) -> Result:
    """Reads a file that :func:`save` wrote, in this version or version 1.

    Raises:
        DamagedResultError: If the file is not a whole result.
        UsageError: If the file cannot be read, or if a later release wrote it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f'{path} cannot be read ({error.strerror}).') from error
    try:
        fields = dict(json.loads(content))
        version = int(fields.get('version', 1))
        if version <= VERSION:
            return _read_fields(fields, version, str(path))
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
        raise DamagedResultError(
            f'{path} is not a whole result file: give a run folder, or a JSON file saved from one.'
        ) from error
    raise UsageError(
        f'{path} is a result file of version {version}, but this release reads up to {VERSION}: read it with '
        'the release that wrote it.'
    )


def _read_fields(fields: dict[str, Any], version: int, source: str) -> Result:
    renamed = renamed_since_version_1(fields['series']) if version == 1 else {}
    series = {renamed.get(m, m): _finite_points(points) for m, points in fields['series'].items()}
    data_seed = fields.get('data_seed')
    result = Result(
        name=str(fields['name']),
        seed=int(fields['seed']),
        epochs=int(fields['epochs']),
        series=dict(sorted(series.items())),
        seconds=float(fields['seconds']),
        poisons={attack: int(count) for attack, count in fields.get('poisons', {}).items()},
        kept=None if fields.get('kept') is None else float(fields['kept']),
        kept_poisons={attack: int(count) for attack, count in fields.get('kept_poisons', {}).items()},
        data_seed=None if data_seed is None else int(data_seed),
        settings=str(fields.get('settings', '')),
        command=str(fields.get('command', '')),
        caveat=str(fields.get('caveat', '')),
        source=source,
    )
    if any(not 0 <= _count(result, attack, 'hits') <= _count(result, attack, 'n') for attack in result.attacks):
        raise ValueError('more hits than images')
    return result


def _count(result: Result, attack: str, what: AsrQuantity) -> float:
    return result.last(asr_metric(attack, what)) or 0


def _finite_points(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Points without values that are not finite, which versions before 2 could save: those were not measured."""
    return [(int(epochs), float(value)) for epochs, value in points if math.isfinite(value)]
