"""Attack success of runs beside that of the paper's Table 1."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.published import measures_published, published_success
from experiments.results import Result, attacks_in, group_repetitions, star
from experiments.table_forms import Table
from experiments.tables import attack_cell

NOTE = (
    'The paper measures other pairs, models and triggers: its rates show what was reached there, not what these runs '
    'should reach.'
)


def success_table(results: Sequence[Result]) -> Table:
    """A table with a row for each run, or all its repetitions, then for each method and data set of the paper.

    Returns:
        The table; empty unless an attack of the paper was measured under its name, such as ``badnet`` or ``tdpa``.
    """
    attacks = measures_published(attacks_in(results))
    if not attacks:
        return Table.of([['run']])
    ours = [
        [label + star(runs), *(attack_cell(runs, attack) for attack in attacks)]
        for label, runs in group_repetitions(results).items()
    ]
    theirs = published_success(attacks)
    return Table.of([['run', *attacks], *ours, *theirs], [NOTE], published=len(theirs))
