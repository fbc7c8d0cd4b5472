from __future__ import annotations

import re
from typing import Any

import pytest

from experiments.workspace import make_workspace, specification

pytest.importorskip('wandb_workspaces')


@pytest.fixture(scope='module')
def sections() -> dict[str, list[dict[str, Any]]]:
    """Panels of each section, as W&B is sent them."""
    sent = specification(make_workspace('me', 'clipward', 'Clipward'))['section']
    assert sent['settings']['xAxis'] == 'epoch'
    return {section['name']: section['panels'] for section in sent['panelBankConfig']['sections']}


def shown(panel: dict[str, Any], *metrics: str) -> list[str]:
    assert panel['config']['useMetricRegex'] and panel['config']['xAxis'] == 'epoch'
    return [metric for metric in metrics if re.search(panel['config']['metricRegex'], metric)]


def test_all_attacks_share_a_panel_with_their_clean_rates(sections: dict[str, list[dict[str, Any]]]) -> None:
    panel, *_ = sections['Attacks and accuracy']
    metrics = ('asr/badnet/rate', 'asr/badnet/clean', 'asr_probe/my/attack/rate')
    assert shown(panel, *metrics, 'asr/badnet/n', 'asr/badnet/low', 'zero_shot/asr/rate') == [*metrics]
    assert (panel['config']['yAxisMin'], panel['config']['yAxisMax']) == (0, 1)


@pytest.mark.parametrize(
    ('section', 'number', 'metric'),
    [
        ('Attacks and accuracy', 1, 'zero_shot/heldout'),
        ('Attacks and accuracy', 2, 'retrieval/heldout/i2t_r10'),
        ('Partition', 0, 'partition/share'),
        ('Partition', 1, 'partition/leak/badnet'),
        ('Partition', 2, 'canary/evident_leak'),
        ('Partition', 3, 'partition/auroc/badnet'),
        ('Cost', 0, 'cost/sweep_s'),
    ],
)
def test_each_quantity_has_its_panel(
    section: str, number: int, metric: str, sections: dict[str, list[dict[str, Any]]]
) -> None:
    showing = [name for name, panels in sections.items() for panel in panels if _shows(panel, metric)]
    assert showing == [section] and _shows(sections[section][number], metric)


def _shows(panel: dict[str, Any], metric: str) -> bool:
    return 'metricRegex' in panel['config'] and bool(shown(panel, metric))


def test_figures_and_tables_are_those_that_a_run_logs(sections: dict[str, list[dict[str, Any]]]) -> None:
    keys = [panel['config']['mediaKeys'] for panel in sections['Figures']]
    assert keys == [['figures/success'], ['figures/similarity'], ['figures/poisons']]
    assert ['suspects' in str(panel) for panel in sections['Pairs']] == [True, False]
