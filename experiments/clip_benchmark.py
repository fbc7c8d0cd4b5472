"""Results in the form of CLIP_benchmark's JSON files, of which ``clip_benchmark build`` makes one table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from callbacks.metric_names import (
    ZERO_SHOT_PREFIX,
    Direction,
    RetrievalQuantity,
    retrieval_metric,
    retrieval_sets,
    zero_shot_top5_metric,
)
from datamodules.files.atomic import write_text
from experiments.results import Result

LANGUAGE = 'en'
WAYS: dict[str, Direction] = {'image': 't2i', 'text': 'i2t'}  # by what is retrieved
NEAREST: dict[int, RetrievalQuantity] = {1: 'r1', 5: 'r5', 10: 'r10'}
RECALLS = {f'{found}_retrieval_recall@{k}': (way, what) for found, way in WAYS.items() for k, what in NEAREST.items()}


def records(result: Result) -> Iterator[dict[str, Any]]:
    """What CLIP_benchmark would write for each set and task, of the last evaluation of a run."""
    for metric in result.series:
        if metric.startswith(ZERO_SHOT_PREFIX):
            name = metric.removeprefix(ZERO_SHOT_PREFIX)
            metrics = {'acc1': result.last(metric), 'acc5': result.last(zero_shot_top5_metric(name))}
            yield _record(result, name, 'zeroshot_classification', metrics)
    for name in retrieval_sets(result.series):
        recalls = {theirs: result.last(retrieval_metric(name, *ours)) for theirs, ours in RECALLS.items()}
        yield _record(result, name, 'zeroshot_retrieval', recalls)


def _record(result: Result, dataset: str, task: str, metrics: dict[str, float | None]) -> dict[str, Any]:
    measured = {name: value for name, value in metrics.items() if value is not None}
    about = {'dataset': dataset, 'model': result.name, 'pretrained': f'seed{result.seed}', 'task': task}
    return {**about, 'metrics': measured, 'language': LANGUAGE}


def write_records(results: Sequence[Result], folder: Path) -> None:
    """Writes a file for each run, set and task, named as CLIP_benchmark names them.

    Raises:
        UsageError: If the folder cannot be written.
    """
    for record in (record for result in results for record in records(result)):
        parts = (record[key] for key in ('dataset', 'pretrained', 'model', 'language', 'task'))
        write_text(folder / f'{"_".join(parts).replace("/", "_")}.json', json.dumps(record) + '\n')
