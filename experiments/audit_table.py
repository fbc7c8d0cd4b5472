"""A Markdown table of what ``clipward audit`` finds, as :class:`callbacks.audit_scores.AuditScores` measured it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from callbacks.audit_scores import ALL
from callbacks.metric_names import detection_metric, flagged_metric, parse_detection_metric
from datamodules.pair_scores import NAMES
from experiments.method_table import Cells
from experiments.results import Result, last_values
from experiments.table_forms import Table

SCORES = (*NAMES, ALL)


def audit_table(cells: Cells) -> Table:
    """A row for each score on the embeddings of each method's model, a column for each attack and each clean set.

    Of an attack, it says which share of the poisons is among the 2 % most suspicious pairs, and the average precision;
    of each set, how many clean pairs stand out. Numbers are means over seeds.

    Args:
        cells: Set of attacks -> method -> runs, repetitions with other seeds.

    Returns:
        The table; empty if no run measured the audit.
    """
    methods = dict.fromkeys(method for runs in cells.values() for method in runs)
    attacks = dict.fromkeys(attack for runs in cells.values() for of in runs.values() for attack in _attacks_in(of))
    head = [f'{attack}: in the first 2 % (AP)' for attack in attacks]
    rows = [['model', 'score', *head, *(f'false alarms, {name or "all"}' for name in cells)]]
    for method in methods:
        runs = {name: of.get(method, ()) for name, of in cells.items()}
        everywhere = [run for of in runs.values() for run in of]
        for score in SCORES if last_values(everywhere, flagged_metric(ALL, 'flagged')) else ():
            found = [_found(everywhere, score, attack) for attack in attacks]
            rows.append([method, score, *found, *(_false_alarms(of, score) for of in runs.values())])
    return Table.of(rows)


def _attacks_in(runs: Sequence[Result]) -> list[str]:
    names = (parse_detection_metric(metric) for run in runs for metric in run.series)
    return sorted({name.attack for name in names if name and name.detector == ALL})


def _found(runs: Sequence[Result], score: str, attack: str) -> str:
    leak, precision = (last_values(runs, detection_metric(score, attack, what)) for what in ('leak_2', 'ap'))
    return f'{1 - fmean(leak):.2f} ({fmean(precision):.3f})' if leak and precision else '-'


def _false_alarms(runs: Sequence[Result], score: str) -> str:
    counts = last_values(runs, flagged_metric(score, 'false_alarms'))
    return f'{fmean(counts):.0f}' if counts else '-'
