from __future__ import annotations

from callbacks.metric_names import detection_metric, detector_seconds, inspection_metric
from experiments.detection_tables import detector_table, inspection_table
from experiments.results import Result
from experiments.table_layout import TableLayout
from tests.experiments.finished_runs import attacked_result

LAYOUT = TableLayout({'all': {'clip': 'CLIP', 'safeclip': 'SafeCLIP'}}, {'badnet': 'BadNet', 'wanet': 'WaNet'})


def run_with(metrics: dict[str, float], seed: int = 1, hits: int = 1) -> Result:
    run = attacked_result('clip', seed, hits, 200)
    run.series.update({metric: [(4, value)] for metric, value in metrics.items()})
    return run


def detected(attack: str, auroc: float, seed: int = 1) -> Result:
    values = {'auroc': auroc, 'ap': 0.25, 'leak_2': 0.5, 'leak_10': 0.125}
    quality = {detection_metric('lof', attack, what): value for what, value in values.items()}
    return run_with({**quality, detector_seconds('lof'): 0.5, detection_metric('lof', 'hidden', 'auroc'): 0.0}, seed)


def inspected(verdict: int, seed: int, hits: int) -> Result:
    metrics = {inspection_metric('verdict'): float(verdict), inspection_metric('seconds'): 10.0 * seed}
    return run_with(metrics, seed, hits)


class TestDetectorTable:
    def test_is_a_mean_over_seeds_and_then_over_the_attacks_shown(self) -> None:
        cells = {
            'four': {'clip': [detected('badnet', 0.8), detected('badnet', 0.6, seed=2)]},
            'filters': {'clip': [detected('wanet', 0.9)]},
        }
        head, _, row = str(detector_table(cells, LAYOUT, 'clip')).splitlines()
        shown = 'AUROC | AP | leak at 2 % | leak at 10 % | AUROC BadNet | AUROC WaNet | extra training time'
        assert head == f'| model | detector | {shown} |'
        assert row == '| CLIP | lof | 0.800 | 0.250 | 0.500 | 0.125 | 0.700 | 0.900 | 5.0% |'

    def test_leaves_open_what_was_not_measured(self) -> None:
        similarity = run_with({detection_metric('similarity', 'badnet', 'auroc'): 0.7})
        *_, row = str(detector_table({'': {'safeclip': [similarity]}}, LAYOUT, 'clip')).splitlines()
        assert row == '| SafeCLIP | similarity | 0.700 | - | - | - | 0.700 | - | - |'

    def test_is_empty_without_detectors(self) -> None:
        assert not detector_table({'': {'clip': [attacked_result('clip', 1, 1, 200)]}}, LAYOUT)


class TestInspectionTable:
    def test_counts_verdicts_apart_for_models_in_which_an_attack_succeeds(self) -> None:
        runs = [inspected(2, 1, hits=100), inspected(0, 2, hits=150), inspected(1, 3, hits=99)]
        without = attacked_result('clip', 4, 200, 200)
        head, _, attacked, other = str(inspection_table({'': {'clip': [*runs, without]}}, LAYOUT)).splitlines()
        assert head.startswith('| model | an attack at 0.5 or more | runs | no sign of a backdoor | suspicious |')
        assert attacked == '| CLIP | yes | 2 | 1 | 0 | 1 | 15 |'
        assert other == '| CLIP | no | 1 | 0 | 1 | 0 | 30 |'

    def test_is_empty_without_inspections(self) -> None:
        assert not inspection_table({'': {'clip': [attacked_result('clip', 1, 1, 200)]}}, LAYOUT)
