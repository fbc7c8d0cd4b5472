from __future__ import annotations

from typing import Any

import pytest

from experiments.environment_values import as_written, from_environment

SETTINGS: dict[str, Any] = {
    'name': 'mine',
    'data': {'root': '${oc.env:CLIPWARD_TEST}/pictures', 'cache': '${.root}', 'rows': '${oc.decode:${oc.env:ROWS,3}}'},
    'trainer': {'logger': [{'save_dir': '${data.root}', 'name': '${name}'}], 'max_epochs': '${nothing}'},
}
DERIVED = {
    ('data', 'root'): '${oc.env:CLIPWARD_TEST}/pictures',
    ('data', 'cache'): '${.root}',
    ('data', 'rows'): '${oc.decode:${oc.env:ROWS,3}}',
    ('trainer', 'logger', 0, 'save_dir'): '${data.root}',
}


def test_are_found_behind_other_interpolations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('CLIPWARD_TEST', '/secret')
    assert from_environment(SETTINGS) == DERIVED


def test_a_variable_that_is_missing_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('CLIPWARD_TEST', raising=False)
    assert from_environment(SETTINGS) == DERIVED


def test_are_put_back_where_the_settings_still_have_them() -> None:
    resolved = {'data': {'root': '/secret/pictures'}, 'trainer': {'logger': [{'save_dir': '/secret'}]}}
    assert as_written(resolved, DERIVED) == {
        'data': {'root': '${oc.env:CLIPWARD_TEST}/pictures'},
        'trainer': {'logger': [{'save_dir': '${data.root}'}]},
    }
    assert as_written({'trainer': {'logger': False}}, DERIVED) == {'trainer': {'logger': False}}
