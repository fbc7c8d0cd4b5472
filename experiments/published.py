"""Figures of the SafeCLIP paper, which reports show beside those of runs and mark as the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

MARK = 'paper'
FILE = Path(__file__).with_name('report_page') / 'published.yaml'


@cache
def published() -> dict[str, Any]:
    """The figures by table, as ``published.yaml`` explains them."""
    content: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding='utf-8'))
    return content


def published_success(attacks: Sequence[str]) -> list[list[str]]:
    """A row for each data set and method of Table 1 with the success of some attacks."""
    return [
        [f'{method} on {data}, {MARK}', *(_rate(rates.get(attack)) for attack in attacks)]
        for data, methods in published()['attack_success'].items()
        for method, rates in methods.items()
    ]


def published_accuracy(task: str, sets: Sequence[str]) -> list[list[str]]:
    """A row for each method of Table 2 with its accuracy on some sets and its mean difference from CLIP on all ten.

    Args:
        task: ``zero_shot`` or ``probe``.
        sets: Names of sets, in any case.
    """
    of_method = published()['accuracy'][task]
    names, reference = [name.lower() for name in published()['sets']], of_method['CLIP']
    rows = []
    for method, values in of_method.items():
        known = dict(zip(names, values, strict=True))
        difference = fmean(ours - theirs for ours, theirs in zip(values, reference, strict=True))
        last = '' if values is reference else f'{difference:+.3f}'
        rows.append([f'{method}, {MARK}', *(_rate(known.get(name.lower())) for name in sets), last])
    return rows


def measures_published(attacks: Sequence[str]) -> list[str]:
    """Those of some attacks that Table 1 measures, too."""
    rates = [rates for methods in published()['attack_success'].values() for rates in methods.values()]
    return [attack for attack in attacks if any(attack in known for known in rates)]


def _rate(value: float | None) -> str:
    return '-' if value is None else f'{value:.3f}'
