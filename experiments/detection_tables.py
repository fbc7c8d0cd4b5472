"""Tables of what finds poisoned pairs and backdoored models."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from callbacks.attack_success import MIN_ESTABLISHED_RATE
from callbacks.metric_names import (
    asr_metric,
    detection_metric,
    detector_seconds,
    inspection_metric,
    parse_detection_metric,
)
from experiments.inspection import WORDS
from experiments.method_table import Cells, runs_of
from experiments.results import Result, last_values
from experiments.table_forms import Table
from experiments.table_layout import TableLayout

QUANTITIES = {'auroc': 'AUROC', 'ap': 'AP', 'leak_2': 'leak at 2 %', 'leak_10': 'leak at 10 %'}


def detector_table(cells: Cells, layout: TableLayout, undefended: str | None = None) -> Table:
    """A table with a row for each detector on the embeddings of each method's model.

    Its quantities are means over seeds, then over attacks; the AUROC of each attack follows. The time is that of the
    detector over a training of the undefended method.

    Args:
        cells: Set of attacks -> method -> runs, repetitions with other seeds.
        layout: Methods and attacks to show.
        undefended: Method whose training time is compared with.

    Returns:
        The table; empty if no run measured a detector.
    """
    training = [run.seconds for run in runs_of(cells, undefended)]
    attacks = [f'AUROC {name}' for name in layout.attacks.values()]
    rows = [['model', 'detector', *QUANTITIES.values(), *attacks, 'extra training time']]
    for method, name in layout.methods.items():
        runs = runs_of(cells, method)
        rows += [[name, *_detector_row(runs, detector, layout, training)] for detector in detectors_in(runs)]
    return Table.of(rows)


def detectors_in(runs: Sequence[Result]) -> list[str]:
    """Detectors that any of the runs measured, in alphabetical order."""
    names = (parse_detection_metric(metric) for run in runs for metric in run.series)
    return sorted({name.detector for name in names if name})


def _detector_row(runs: Sequence[Result], detector: str, layout: TableLayout, training: Sequence[float]) -> list[str]:
    means = {
        what: [_mean(last_values(runs, detection_metric(detector, attack, what))) for attack in layout.attacks]
        for what in QUANTITIES
    }
    over_attacks = [_mean([value for value in values if value is not None]) for values in means.values()]
    seconds = last_values(runs, detector_seconds(detector))
    extra = f'{fmean(seconds) / fmean(training):.1%}' if seconds and any(training) else '-'
    return [detector, *map(_format, [*over_attacks, *means['auroc']]), extra]


def inspection_table(cells: Cells, layout: TableLayout) -> Table:
    """A table of the verdicts on each method's models, apart for those in which some attack succeeds.

    Args:
        cells: Set of attacks -> method -> runs, repetitions with other seeds.
        layout: Methods to show.

    Returns:
        The table; empty if no model was inspected.
    """
    rows = [['model', f'an attack at {MIN_ESTABLISHED_RATE} or more', 'runs', *WORDS, 'seconds']]
    for method, name in layout.methods.items():
        inspected = [run for run in runs_of(cells, method) if run.last(inspection_metric('verdict')) is not None]
        for is_attacked in (True, False):
            if runs := [run for run in inspected if _is_attacked(run) == is_attacked]:
                rows.append([name, 'yes' if is_attacked else 'no', *_verdicts(runs)])
    return Table.of(rows)


def _is_attacked(run: Result) -> bool:
    """Whether any attack succeeds as often as one that counts as established."""
    return any((run.last(asr_metric(attack, 'rate')) or 0) >= MIN_ESTABLISHED_RATE for attack in run.attacks)


def _verdicts(runs: Sequence[Result]) -> list[str]:
    verdicts = last_values(runs, inspection_metric('verdict'))
    counts = [str(verdicts.count(index)) for index in range(len(WORDS))]
    return [str(len(runs)), *counts, f'{fmean(last_values(runs, inspection_metric("seconds"))):.0f}']


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _format(value: float | None) -> str:
    return '-' if value is None else f'{value:.3f}'
