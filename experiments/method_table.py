"""A table with a row for each method, over all sets of attacks that it was trained under.

Cells are those of :mod:`experiments.tables`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from statistics import fmean

from callbacks.attack_success import MIN_ESTABLISHED_RATE
from experiments.results import Result, attacks_in, last_values
from experiments.table_forms import Table
from experiments.table_layout import TableLayout
from experiments.tables import attack_cell, format_spread, notes, success_rate

Cells = Mapping[str, Mapping[str, Sequence[Result]]]  # set of attacks -> method -> runs, repetitions with other seeds

ZERO_SHOT = attrgetter('accuracy_metric')
ACCURACIES: dict[str, Callable[[Result], str]] = {'zero-shot': ZERO_SHOT, 'linear probe': attrgetter('probe_metric')}


def method_table(cells: Cells, layout: TableLayout, costs: Mapping[str, float], undefended: str | None = None) -> Table:
    """A table with a row for each method and a column for each attack.

    Args:
        cells: Set of attacks -> method -> runs, repetitions with other seeds.
        layout: Methods and attacks to show.
        costs: Method -> training time over that of the undefended method; NaN if it is not known.
        undefended: Method whose success tells whether an attack works, see :func:`experiments.tables.attack_table`.
    """
    weak = {
        attack
        for attack in layout.attacks
        if success_rate(runs_under(cells, undefended, attack), attack) < MIN_ESTABLISHED_RATE
    }
    attacks = [name + ': attack not established' * (attack in weak) for attack, name in layout.attacks.items()]
    reference = layout.methods.get(undefended or '', undefended)
    heads = [
        head
        for head, metric in ACCURACIES.items()
        if any(accuracies(runs_of(cells, m), metric) for m in layout.methods)
    ]
    rows = [['method', 'seeds', *heads, *attacks, f'training time over {reference}']]
    for method, name in layout.methods.items():
        runs = runs_of(cells, method)
        seeds = len({(run.data_seed, run.seed) for run in runs})
        measured = [format_spread(accuracies(runs, ACCURACIES[head])) for head in heads]
        successes = [attack_cell(runs_under(cells, method, attack), attack) for attack in layout.attacks]
        rows.append([name, str(seeds), *measured, *successes, _format_cost(costs[method])])
    shown = (runs.get(method, ()) for runs in cells.values() for method in layout.methods)
    return Table.of(rows, notes(rows[1:], shown)).with_notes(_unmeasured(cells, layout))


def _unmeasured(cells: Cells, layout: TableLayout) -> str:
    """Names the attacks without a measurement, which may be misspelled; without them there is no figure either."""
    measured = attacks_in(run for runs in cells.values() for of in runs.values() for run in of)
    missing = [attack for attack in layout.attacks if attack not in measured]
    return f'No run has measured {", ".join(missing)}.' if missing else ''


def runs_of(cells: Cells, method: str | None) -> list[Result]:
    """Runs of a method under all sets of attacks."""
    return [run for runs in cells.values() for run in runs.get(method or '', ())]


def runs_under(cells: Cells, method: str | None, attack: str) -> list[Result]:
    """Runs of a method under the sets of attacks that hold an attack, also those that did not measure it."""
    holding = [runs for runs in cells.values() if attack in attacks_in(run for of in runs.values() for run in of)]
    return [run for runs in holding for run in runs.get(method or '', ())]


def accuracies(runs: Sequence[Result], metric: Callable[[Result], str] = ZERO_SHOT) -> list[float]:
    """Accuracy for each pair of seeds, as the mean over the sets of attacks under which it was measured."""
    by_seeds: dict[tuple[int | None, int], list[float]] = defaultdict(list)
    for run in runs:
        by_seeds[run.data_seed, run.seed] += last_values([run], metric(run))
    return [fmean(values) for values in by_seeds.values() if values]


def _format_cost(cost: float) -> str:
    return '-' if math.isnan(cost) else f'{cost:.2f}'
