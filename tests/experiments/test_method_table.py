from __future__ import annotations

import math

from experiments.method_table import method_table
from experiments.results import Result
from experiments.table_layout import TableLayout
from tests.experiments.finished_runs import attacked_result

LAYOUT = TableLayout(
    {'plain': {'clip': 'CLIP'}, 'defense': {'safeclip': 'SafeCLIP'}}, {'badnet': 'BadNet', 'wanet': 'W'}
)
COSTS = {'clip': 1.0, 'safeclip': math.nan}


def under_wanet(run: Result) -> Result:
    """The same run under another attack."""
    run.series.update({name.replace('badnet', 'wanet'): run.series.pop(name) for name in [*run.series]})
    return run


def rows_of(table: str) -> list[list[str]]:
    return [line.strip('| ').split(' | ') for line in table.splitlines() if line.startswith('|')]


class TestMethodTable:
    def test_merges_the_sets_of_attacks_and_the_seeds(self) -> None:
        clip = [attacked_result('clip', 1, 180, 200, 0.5), attacked_result('clip', 2, 120, 200, 0.6)]
        filters = [under_wanet(attacked_result('clip', 1, 190, 200, 0.7))]
        table = str(method_table({'four': {'clip': clip}, 'filters': {'clip': filters}}, LAYOUT, COSTS, 'clip'))
        head, _, row, empty = rows_of(table)
        assert head == ['method', 'seeds', 'zero-shot', 'BadNet', 'W', 'training time over CLIP']
        assert row[:3] == ['CLIP', '2', '0.600 (0.600 to 0.600)']  # of the first seed, both sets: 0.5 and 0.7
        assert row[3].startswith('0.750 [0.') and row[3].endswith(' ± 0.212 (0.100)')
        assert row[4].startswith('0.950 [0.') and row[4].endswith(' (0.100)') and row[5] == '1.00'
        assert empty == ['SafeCLIP', '0', '-', '-', '-', '-']

    def test_shows_linear_probes_where_one_was_trained(self) -> None:
        probed = attacked_result('clip', 1, 180, 200, 0.5)
        probed.series['probe/heldout'] = [(4, 0.625)]
        runs = {'clip': [probed], 'safeclip': [attacked_result('safeclip', 1, 2, 200)]}
        head, _, clip, safeclip = rows_of(str(method_table({'': runs}, LAYOUT, COSTS)))
        assert head[3] == 'linear probe' and clip[3] == '0.625' and safeclip[3] == '-'

    def test_shows_only_what_the_layout_names(self) -> None:
        runs = {
            'clip': [attacked_result('clip', 1, 180, 200)],
            'stage': [attacked_result('x', 1, 1, 9, caveat='a part')],
        }
        only_wanet = TableLayout({'plain': {'clip': 'CLIP'}}, {'wanet': 'WaNet'})
        table = str(method_table({'': runs}, only_wanet, COSTS))
        assert rows_of(table)[2:] == [['CLIP', '1', '0.500', '-', '1.00']] and 'a part' not in table

    def test_marks_attacks_that_fail_without_a_defense(self) -> None:
        cells = {'': {'clip': [attacked_result('clip', 1, 60, 200)]}}
        assert rows_of(str(method_table(cells, LAYOUT, COSTS, 'clip')))[0][3:5] == [
            'BadNet: attack not established',
            'W',
        ]
        assert 'not established' not in str(method_table(cells, LAYOUT, COSTS))

    def test_names_attacks_that_no_run_has_measured(self) -> None:
        cells = {'': {'clip': [attacked_result('clip', 1, 180, 200)]}}
        assert str(method_table(cells, LAYOUT, COSTS)).endswith('\n\nNo run has measured wanet.')

    def test_marks_runs_that_are_not_whole_under_their_own_attacks_alone(self) -> None:
        lost = Result('safeclip', 1, 4, {}, 1.0, caveat='diverged')
        cells = {
            'four': {
                'clip': [attacked_result('clip', 1, 180, 200)],
                'safeclip': [attacked_result('s', 2, 1, 200), lost],
            },
            'filters': {'safeclip': [under_wanet(attacked_result('safeclip', 1, 1, 200))]},
        }
        table = str(method_table(cells, LAYOUT, COSTS))
        *_, badnet, wanet, _ = rows_of(table)[3]
        assert badnet.endswith('(0.100)*') and wanet.endswith('(0.100)')
        assert table.splitlines()[-1] == '* safeclip, seed 1: diverged.'
