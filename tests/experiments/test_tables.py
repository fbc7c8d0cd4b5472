from __future__ import annotations

from dataclasses import replace

from callbacks.intervals import wilson_interval
from experiments.results import Result
from experiments.tables import attack_cell, attack_table, run_table
from tests.experiments.finished_runs import attacked_result


class TestAttackCell:
    def test_adds_up_the_images_of_all_seeds(self) -> None:
        runs = [attacked_result('clip', 1, 90, 100), attacked_result('clip', 2, 10, 100, clean=0.2)]
        low, high = wilson_interval(100, 200)
        assert attack_cell(runs, 'badnet') == f'0.500 [{low:.3f}, {high:.3f}] ± 0.566 (0.150)'

    def test_shows_few_images_as_counts(self) -> None:
        assert attack_cell([attacked_result('clip', 1, 3, 16)], 'badnet').startswith('3/16 [')

    def test_an_attack_may_be_named_like_a_metric_of_another_one(self) -> None:
        run = attacked_result('clip', 1, 3, 16)
        assert attack_cell([run], 'badnet/clean') == attack_cell([run], 'badnet_clean') == '-'


def unsaid(recall: float, hits: int = 1) -> Result:
    """A run whose model says the target class of a share of the clean images that show it."""
    run = attacked_result('safeclip', 1, hits, 200)
    run.series['asr/badnet/recall'] = [(4, recall)]
    return run


def test_success_through_retrieval_has_a_row_where_a_run_measured_it() -> None:
    clip, safeclip = (attacked_result(name, 1, 90, 200) for name in ('clip', 'safeclip'))
    assert 'through' not in str(attack_table({'': {'clip': [clip]}}))
    clip.series.update({f'asr_retrieval/badnet/{what}': [(4, value)] for what, value in (('hits', 30.0), ('n', 200.0))})
    rows = str(attack_table({'': {'clip': [clip], 'safeclip': [safeclip]}})).splitlines()
    (row,) = (row for row in rows if row.startswith('| badnet through retrieval |'))
    low, high = wilson_interval(30, 200)
    assert row.split(' | ')[2:] == [f'0.150 [{low:.3f}, {high:.3f}]', '- |']


class TestUnsaidTarget:
    def test_a_low_rate_is_marked_and_the_mark_is_explained(self) -> None:
        for rows in (str(run_table([unsaid(0.01)])), str(attack_table({'': {'safeclip': [unsaid(0.01)]}}))):
            assert ' (0.100)† |' in rows
            *_, note = rows.splitlines()
            assert note.startswith('† the target class is recognized in less than 5% of its clean images')

    def test_other_rates_are_not(self) -> None:
        for run in (unsaid(0.5), unsaid(0.01, hits=150), attacked_result('clip†', 1, 1, 200)):
            assert '†' not in str(attack_table({'': {'clip': [run]}})).replace(run.name, '')

    def test_recall_has_a_column_where_a_run_measured_it(self) -> None:
        assert 'recall' not in str(run_table([attacked_result('clip', 1, 1, 200)]))
        head, _, clip, safeclip = str(run_table([attacked_result('clip', 1, 1, 200), unsaid(0.5)])).splitlines()
        column = head.split(' | ').index('recall of its target, badnet')
        assert [row.split(' | ')[column] for row in (clip, safeclip)] == ['-', '0.500']


class TestFeatures:
    def run(self) -> Result:
        run = attacked_result('clip', 1, 3, 16)
        attacked = {f'asr_probe/badnet/{what}': x for what, x in (('hits', 150), ('n', 200), ('clean', 0.05))}
        metrics = {'probe/a': 0.1, 'probe/heldout': 0.9, **attacked}
        return replace(run, series={**run.series, **{metric: [(4, float(x))] for metric, x in metrics.items()}})

    def test_a_run_has_columns_of_what_a_probe_measured_where_any_did(self) -> None:
        head, _, *rows = str(run_table([self.run(), attacked_result('other', 1, 1, 16)])).splitlines()
        columns = {'probe': ['0.900', '-'], 'badnet ASR through a probe [95 %] (clean)': ['0.750 [', '-']}
        for name, values in columns.items():
            column = head.split(' | ').index(name)
            assert [row.split(' | ')[column][:7] for row in rows] == values
        plain = str(run_table([attacked_result('other', 1, 1, 16)]))
        assert 'probe' not in plain and 'k-NN' not in plain

    def test_an_attack_has_a_row_for_each_classifier_of_features(self) -> None:
        table = str(attack_table({'': {'clip': [self.run()], 'other': [attacked_result('other', 1, 1, 16)]}}))
        low, high = wilson_interval(150, 200)
        assert f'| badnet through a probe |  | 0.750 [{low:.3f}, {high:.3f}] (0.050) | - |' in table
        assert '| probe accuracy |  | 0.900 | - |' in table
        assert 'probe' not in str(attack_table({'': {'clip': [attacked_result('clip', 1, 1, 16)]}}))


class TestRunTable:
    def test_has_a_row_for_each_name_and_shows_the_spread_over_seeds(self) -> None:
        clips = [attacked_result('clip', seed, 1, 200, accuracy) for seed, accuracy in ((1, 0.4), (2, 0.6))]
        runs = [clips[0], attacked_result('safeclip', 1, 1, 200, 0.3), clips[1]]
        head, _, clip, safeclip = str(run_table(runs)).splitlines()
        assert [line.count('|') for line in (head, clip, safeclip)] == [head.count('|')] * 3
        assert '| clip | 2 | 0.500 (0.400 to 0.600) |' in clip and '| safeclip | 1 | 0.300 |' in safeclip

    def test_a_name_forges_no_row_and_sends_a_terminal_nothing(self) -> None:
        rows = str(run_table([attacked_result('a\n| b |\x1b[2J', 1, 1, 200, caveat='\x1b]0;x')])).splitlines()
        assert rows[2].startswith('| a?/ b /?[2J* | 1 |') and rows[4:] == ['* a?| b |?[2J, seed 1: ?]0;x.']

    def test_marks_a_run_that_is_not_whole_and_says_why(self) -> None:
        stopped = attacked_result('clip', 1, 1, 200, caveat='not finished, in epoch 3 of 4')
        *_, row, empty, note = str(run_table([stopped])).splitlines()
        assert row.startswith('| clip* | 1 |') and not empty
        assert note == '* clip, seed 1: not finished, in epoch 3 of 4.'

    def test_without_known_poisons_nothing_is_known_to_be_clean(self) -> None:
        series = {'zero_shot/a': [(4, 0.5)], 'partition/share': [(4, 0.6)], 'partition/contamination': [(4, 0.0)]}
        columns = [row.split(' | ') for row in str(run_table([Result('own', 1, 4, series, 1.0)])).splitlines()]
        assert dict(zip(columns[0], columns[2], strict=True))['contamination'] == '-'
        known = str(run_table([Result('own', 1, 4, series, 1.0, {'badnet': 3})])).splitlines()[-1]
        assert '| 0.600 | 0.000 |' in known

    def test_a_run_without_attacks_leaves_its_cells_empty(self) -> None:
        twin = Result('twin', 1, 4, {'zero_shot/heldout': [(4, 0.5)]}, 1.0)
        assert '| - |' in str(run_table([attacked_result('clip', 1, 1, 200), twin])).splitlines()[-1]

    def test_shows_the_first_split_of_runs_that_end_there(self) -> None:
        series = {'partition/share': [(6, 0.25)], 'partition/leak/a': [(6, 0.1)], 'partition/auroc/a': [(6, 0.8)]}
        columns = [
            row.split(' | ') for row in str(run_table([Result('5_1', 1, 30, series, 1.0, {'a': 3})])).splitlines()
        ]
        row = dict(zip(columns[0], columns[2], strict=True))
        assert (row['first split: share'], row['leak a'], row['AUROC a']) == ('0.250', '0.100', '0.800')


class TestAttackTable:
    def test_marks_a_cell_with_a_run_that_is_not_whole(self) -> None:
        runs = [attacked_result('clip', 1, 60, 200), attacked_result('clip', 2, 60, 200, caveat='a part')]
        lines = str(attack_table({'': {'clip': runs}})).splitlines()
        assert lines[2].endswith('(0.100)* |') and lines[-1] == '* clip, seed 2: a part.'

    def test_says_where_runs_of_other_settings_are_mixed(self) -> None:
        runs = [attacked_result('clip', seed, 60, 200, settings=settings) for seed, settings in ((1, 'a'), (2, 'b'))]
        lines = str(attack_table({'': {'clip': runs}})).splitlines()
        assert '(0.100)* |' in lines[2] and lines[-1] == '* clip: its runs differ by more than their seeds.'

    def test_marks_an_attack_that_fails_without_a_defense(self) -> None:
        cells = {'': {'clip': [attacked_result('clip', 1, 60, 200)], 'safeclip': [attacked_result('x', 1, 2, 200)]}}
        assert (
            str(attack_table(cells, undefended='clip')).splitlines()[2].startswith('| badnet: attack not established |')
        )
        assert str(attack_table(cells)).splitlines()[2].startswith('| badnet | - | 0.300')

    def test_names_the_set_of_attacks_where_a_grid_has_several(self) -> None:
        runs = [attacked_result('clip', 1, 60, 200)]
        runs[0].poisons['badnet'] = 25
        labels = [line.split(' | ')[:2] for line in str(attack_table({'weak': {'clip': runs}})).splitlines()[2:]]
        assert labels == [['| weak', '25'], ['| zero-shot accuracy (weak)', '']]

    def test_says_what_filters_have_kept(self) -> None:
        retrained = [
            attacked_result('retrain', seed, 1, 200, kept=kept, kept_poisons={'badnet': seed}, poisons={'badnet': 75})
            for seed, kept in ((1, 0.7), (2, 0.8))
        ]
        cells = {'': {'clip': [attacked_result('clip', 1, 60, 200)], 'retrain': retrained}}
        said = '0.750 (0.700 to 0.800); 3 of 150 badnet'
        assert f'| pairs kept |  | - | {said} |' in str(attack_table(cells))
        head, _, clip, retrain = str(run_table([*cells['']['clip'], *retrained])).splitlines()
        assert '| seeds | pairs kept |' in head and clip.startswith('| clip | 1 | - |') and said in retrain
        assert 'pairs kept' not in str(attack_table({'': {'clip': cells['']['clip']}}))

    def test_a_method_without_runs_has_empty_cells(self) -> None:
        cells = {
            'a': {'clip': [attacked_result('clip', 1, 60, 200)]},
            'b': {'safeclip': [attacked_result('x', 1, 2, 8)]},
        }
        lines = str(attack_table(cells)).splitlines()
        assert lines[2].endswith('| - |') and '| - | 2/8 [' in lines[4]
