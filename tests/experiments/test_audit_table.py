from __future__ import annotations

from callbacks.audit_scores import ALL
from datamodules.pair_scores import NAMES
from experiments.audit_table import audit_table
from experiments.results import Result


def run(attack: str | None, leak: float = 0.25, alarms: float = 7) -> Result:
    """A run that measured the audit, with one attack or none."""
    values: dict[str, float] = {}
    for score in (*NAMES, ALL):
        values |= {f'detect/{score}/flagged': 30, f'detect/{score}/false_alarms': alarms}
        if attack:
            values |= {f'detect/{score}/{attack}/leak_2': leak, f'detect/{score}/{attack}/ap': 0.5}
    return Result('run', 1, 30, {name: [(30, value)] for name, value in values.items()}, 60.0)


def test_says_what_each_score_finds_of_each_attack_and_how_often_it_is_wrong() -> None:
    cells = {'badnet': {'clip': [run('badnet'), run('badnet', 0.05)]}, 'none': {'clip': [run(None, alarms=12)]}}
    head, _, *lines = str(audit_table(cells)).splitlines()
    assert head == '| model | score | badnet: in the first 2 % (AP) | false alarms, badnet | false alarms, none |'
    assert len(lines) == len(NAMES) + 1 and lines[-1] == '| clip | suspicion | 0.85 (0.500) | 7 | 12 |'


def test_what_a_model_did_not_measure_is_left_open() -> None:
    cells = {'badnet': {'clip': [run('badnet')], 'safeclip': []}, 'tdpa': {'safeclip': [run('tdpa')]}}
    lines = str(audit_table(cells)).splitlines()
    assert '| clip | detail | 0.75 (0.500) | - | 7 | - |' in lines
    assert '| safeclip | detail | - | 0.75 (0.500) | - | 7 |' in lines


def test_is_empty_where_no_run_measured_it() -> None:
    assert not audit_table({'badnet': {'clip': [Result('run', 1, 30, {'zero_shot/heldout': [(30, 0.5)]}, 60.0)]}})
