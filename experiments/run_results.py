"""Reads what a run measured from its folder.

Each ``version_*`` folder is one whole run, also when it was killed and resumed; what two of them measured is never
merged.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from callbacks.ledger import FILE as LEDGER
from callbacks.metric_names import (
    CANARY_PREFIX,
    COST_PREFIX,
    DETECTION_PREFIX,
    EPOCH_SECONDS,
    HEAD_PREFIXES,
    INSPECTION_PREFIX,
    KNN_PREFIX,
    MIXTURE_SECONDS,
    PROBE_PREFIX,
    RETRIEVAL_PREFIX,
    SWEEP_SECONDS,
    ZERO_SHOT_PREFIX,
    ZERO_SHOT_TOP5_PREFIX,
    renamed_since_version_1,
)
from datamodules.usage_error import UsageError
from experiments.results import Result
from experiments.run_folder import DONE

METRICS, CONFIG, MANIFEST, KEPT = 'metrics.csv', 'config.yaml', 'manifest.parquet', 'kept.json'
LOSS = 'train/loss'
ACCURACIES = (ZERO_SHOT_PREFIX, ZERO_SHOT_TOP5_PREFIX, PROBE_PREFIX, KNN_PREFIX)
EVALUATIONS = (*HEAD_PREFIXES.values(), *ACCURACIES, RETRIEVAL_PREFIX, CANARY_PREFIX)
KEPT_PREFIXES = (*EVALUATIONS, DETECTION_PREFIX, INSPECTION_PREFIX, 'partition/', COST_PREFIX)
TRAINING_COSTS = (EPOCH_SECONDS, SWEEP_SECONDS, MIXTURE_SECONDS)
OF_EVALUATIONS = 'allow_untrained'  # an option of `validate`, `test` and `predict`, which train nothing
TRAINER_SETTINGS = ('max_steps', 'limit_train_batches', 'precision', 'accumulate_grad_batches', 'gradient_clip_val')
SEEDS = ('seed', 'pool_seed', 'canary_seed', 'fold')  # the fold of targeted poisons is drawn by the seed, too
NOT_SETTINGS = (*SEEDS, 'root', 'cache_dir', 'num_workers', 'init_from')  # may differ between repetitions

DAMAGE = (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RuntimeError, csv.Error, yaml.YAMLError)

Row = dict[str, str]
Series = dict[str, list[tuple[int, float]]]


def versions(folder: Path) -> list[Path]:
    """The ``version_*`` folders of a run's name, in ascending order of their numbers."""
    numbered = [path for path in folder.glob('version_*') if _number(path).isdecimal() and path.is_dir()]
    return sorted(numbered, key=lambda path: int(_number(path)))


def _number(version: Path) -> str:
    return version.name.removeprefix('version_')


def is_finished(version: Path) -> bool:
    """Whether the run of a version came to its planned end."""
    return (version / DONE).is_file()


def finished_version(folder: Path) -> Path | None:
    """The version of a run's name that came to its planned end; the one with the highest number if several did."""
    return next((version for version in reversed(versions(folder)) if is_finished(version)), None)


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run's name, or of one of its versions."""
    return bool(versions(folder)) or (folder / CONFIG).exists() or (folder / METRICS).exists()


def read_runs(folder: Path) -> list[Result]:
    """Reads the training runs of a folder.

    Args:
        folder: A folder ``runs/<name>``, or one of its ``version_*`` folders.

    Returns:
        A result for each version that holds a training run with measurements, in ascending order of versions. If there
        are several, their names tell them apart.

    Raises:
        UsageError: If there is no such run, or if a file of one is damaged.
    """
    runs = {version: read_run(version) for version in versions(folder) or [folder]}
    trained = {version: run for version, run in runs.items() if run is not None}
    if not trained and any((version / CONFIG).exists() and not is_finished(version) for version in runs):
        raise UsageError(
            f'{folder} holds no measurement, since its run did not finish: resume it with --ckpt_path=last, or leave '
            f'it out.'
        )
    if not trained:
        raise UsageError(f'{folder} holds no run that was trained and measured: give a folder such as runs/clip_toy.')
    if len(trained) == 1:
        return [*trained.values()]
    methods = {version: _read_method(version) for version in trained}
    is_needed = len(set(methods.values())) > 1
    return [
        replace(run, name=f'{run.name}/{version.name}' + f' ({methods[version]})' * is_needed)
        for version, run in trained.items()
    ]


def read_run(version: Path) -> Result | None:
    """Reads the run of one ``version_*`` folder.

    Returns:
        The result; ``None`` if nothing was trained there, or nothing measured.

    Raises:
        UsageError: If a file of the folder is missing, cut or not what it should be.
    """
    rows = _read_rows(version)
    if not any(value for row in rows for metric, value in row.items() if metric.startswith(KEPT_PREFIXES)):
        return None
    config = _read_config(version)
    if OF_EVALUATIONS in config:
        return None
    result = _describe(config, version)
    with _naming(version / METRICS):
        series, diverged = _read_series(rows), _diverged_in(rows)
        caveat = ', '.join(_caveats(rows, diverged, result.epochs, is_finished(version)))
    return replace(
        result,
        series=series if diverged is None else {},
        seconds=sum(value for metric in TRAINING_COSTS for _, value in series.get(metric, [])),
        poisons=_count_poisons(version / MANIFEST),
        **_read_kept(version / KEPT),
        caveat=caveat,
    )


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Turns what reading a damaged file raises into a sentence that names the file."""
    try:
        if not file.is_file():  # to open a pipe would wait for ever
            raise FileNotFoundError(file)
        yield
    except (OSError, *DAMAGE) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f'{file} is missing, cut or not what a run writes: restore it, or leave {file.parent} out.'
        ) from error


# --- metrics.csv ----------------------------------------------------------------------------------------------------


def _read_rows(version: Path) -> list[Row]:
    """The rows of ``metrics.csv``; none if the run failed before its first."""
    file = version / METRICS
    if not is_finished(version) and not (file.is_file() and file.stat().st_size):
        return []
    with _naming(file):
        text = file.read_text(encoding='utf-8')
        rows: list[Row] = [*csv.DictReader(io.StringIO(text), strict=True)]
        if not text.endswith('\n') or any(None in row or None in row.values() for row in rows):
            raise ValueError('a row is cut')
        return [row for row in rows if row['epoch']]


def _read_series(rows: Sequence[Row]) -> Series:
    """Finite values of the metrics that tables and figures show, under their current names, and the loss."""
    renamed = renamed_since_version_1(rows[0])
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for row in rows:
        for metric, value in row.items():
            if value and metric.startswith(KEPT_PREFIXES) and math.isfinite(float(value)):
                values[renamed.get(metric, metric)][int(row['epoch']) + 1] = float(value)
    if losses := _read_losses(rows):
        values[LOSS] = losses
    return {metric: sorted(by_epoch.items()) for metric, by_epoch in sorted(values.items())}


def _read_losses(rows: Sequence[Row]) -> dict[int, float]:
    """The mean of the losses that were logged in each epoch."""
    logged: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        if value := row.get(LOSS):
            logged[int(row['epoch']) + 1].append(float(value))
    return {epoch: sum(losses) / len(losses) for epoch, losses in logged.items()}


def _caveats(rows: Sequence[Row], diverged: int | None, epochs: int, is_done: bool) -> Iterator[str]:
    """What the reader of a table must know about a run that is not a whole one."""
    first, last = (1 + choose(int(row['epoch']) for row in rows) for choose in (min, max))
    if diverged is not None:
        yield f'diverged in epoch {diverged}, so nothing that it measured counts'
    if first > 1:
        yield f'a part, which begins in epoch {first}: an earlier release resumed the run in a new folder'
    if not is_done:
        yield f'not finished, in epoch {last} of {epochs}'


def _diverged_in(rows: Sequence[Row]) -> int | None:
    """Epoch, counted from 1, of the first loss that is not finite."""
    return next((int(row['epoch']) + 1 for row in rows if not math.isfinite(float(row.get(LOSS) or 0))), None)


# --- config.yaml and manifest.parquet -------------------------------------------------------------------------------


def _read_config(version: Path) -> dict[str, Any]:
    file = version / CONFIG
    with _naming(file):
        return dict(yaml.safe_load(file.read_text(encoding='utf-8')))


def _describe(config: dict[str, Any], version: Path) -> Result:
    """The result of a run before anything of it was measured."""
    with _naming(version / CONFIG):
        seed, epochs = int(config['seed_everything']), int(config['trainer']['max_epochs'] or -1)
        data_seed = _arguments(config.get('data')).get('seed')
        return Result(
            str(config['name']),
            seed,
            epochs,
            {},
            0.0,
            data_seed=data_seed,
            settings=_settings(config),
            source=str(version),
        )


def _settings(config: dict[str, Any]) -> str:
    """Digest of what repetitions of a run have in common."""
    trainer = {key: config['trainer'].get(key) for key in TRAINER_SETTINGS}
    parts = [config.get('model'), config.get('data'), _split(config), trainer]
    return hashlib.sha256(json.dumps(_without_seeds(parts), sort_keys=True, default=str).encode()).hexdigest()[:8]


def _without_seeds(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_seeds(part) for key, part in value.items() if not _may_differ(key, part)}
    return [*map(_without_seeds, value)] if isinstance(value, list) else value


def _may_differ(key: str, value: Any) -> bool:
    """Whether repetitions may differ in a setting.

    The ledger of an earlier run is that of a run with their seeds. Earlier releases lack what is not set.
    """
    return value is None or key in NOT_SETTINGS or (key == 'file' and Path(str(value)).name == LEDGER)


def _read_method(version: Path) -> str:
    """Classes of a run's model and of its split, such as ``SafeCLIP, no split``."""
    config = _read_config(version)
    with _naming(version / CONFIG):
        parts = config['model'], _split(config)
        model, split = (part.get('class_path', '').rpartition('.')[2] for part in parts)
        return f'{model}, {split or "no split"}'


def _split(config: dict[str, Any]) -> dict[str, Any]:
    return (config.get('callbacks') or {}).get('repartition') or {}


def _arguments(value: dict[str, Any] | None) -> dict[str, Any]:
    return (value or {}).get('init_args') or {}


def _read_kept(file: Path) -> dict[str, Any]:
    """What filters left to train on, as fields of a result; nothing for a run without filters."""
    if not file.exists():
        return {}
    with _naming(file):
        kept = json.loads(file.read_text(encoding='utf-8'))
        poisons = {str(attack): int(count) for attack, count in kept['poisons'].items()}
        return {'kept': float(kept['share']), 'kept_poisons': poisons}


def _count_poisons(file: Path) -> dict[str, int]:
    if not file.exists():
        return {}
    with _naming(file):
        return dict(Counter(pq.read_table(file, columns=['attack'])['attack'].to_pylist()))
