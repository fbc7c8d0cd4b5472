"""The workspace that shows the runs of a project in W&B, made by code."""

from __future__ import annotations

import json
from typing import Any

from datamodules.usage_error import UsageError

FRACTIONS = (0.0, 1.0)
ATTACKS = r'^asr(_[a-z]+)?/.+/(rate|clean)$'  # of prompts, and of other classifiers


def make_workspace(entity: str, project: str, name: str) -> Any:
    """A workspace, not saved: attacks with their clean rates in one panel, accuracy, the split, cost, and the pairs.

    Args:
        entity: User or team that the project belongs to.
        project: Project whose runs it shows.
        name: Its name.

    Raises:
        UsageError: If wandb-workspaces is not installed.
    """
    try:
        from wandb_workspaces.reports.v2.interface import MediaBrowser, WeavePanelSummaryTable
        from wandb_workspaces.workspaces import Section, Workspace, WorkspaceSettings
    except ImportError as error:
        raise UsageError('dashboard needs wandb-workspaces: pip install "clipward[dashboard]".') from error
    pictures = [MediaBrowser(title=key, media_keys=[f'figures/{key}']) for key in ('success', 'similarity', 'poisons')]
    tables = [WeavePanelSummaryTable(table_name=table) for table in ('suspects', 'poisons')]
    panels = {**{section: _lines(section) for section in LINES}, 'Figures': pictures, 'Pairs': tables}
    sections = [Section(name=section, panels=content, is_open=True) for section, content in panels.items()]
    settings = WorkspaceSettings(x_axis='epoch', smoothing_type='none')
    return Workspace(entity=entity, project=project, name=name, sections=sections, settings=settings)


LINES: dict[str, dict[str, tuple[str, tuple[float, float] | None]]] = {  # section -> title -> metrics, range
    'Attacks and accuracy': {
        'Attack success, and the rate on clean images': (ATTACKS, FRACTIONS),
        'Accuracy': (r'^(zero_shot|probe|knn)/', FRACTIONS),
        'Retrieval: R@10': (r'^retrieval/.+_r10$', FRACTIONS),
    },
    'Partition': {
        'Safe side, and the poison on it': (r'^partition/(share|contamination)$', FRACTIONS),
        'Poisons that are safe': (r'^partition/leak/', FRACTIONS),
        'What passes of pairs that do not match': (r'^(partition/null_leak|canary/.*leak.*)$', FRACTIONS),
        'How well similarity tells poisons (AUROC)': (r'^partition/auroc/', FRACTIONS),
    },
    'Cost': {
        'Seconds of the parts of an epoch': (r'^cost/.+_s$', None),
        'Pairs trained in a second': (r'^cost/pairs_per_s$', None),
        'Share of the training time spent waiting for data': (r'^cost/data_wait$', FRACTIONS),
        'Mean loss': (r'^train/loss', None),
    },
}


def _lines(section: str) -> list[Any]:
    """Panels of a section that draw metrics against epochs."""
    from wandb_workspaces.reports.v2.interface import LinePlot

    return [
        LinePlot(title=title, x='epoch', metric_regex=metrics, range_y=limits or (None, None))
        for title, (metrics, limits) in LINES[section].items()
    ]


def specification(workspace: Any) -> dict[str, Any]:
    """What W&B is sent to save a workspace."""
    sent: dict[str, Any] = json.loads(workspace._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
    return sent
