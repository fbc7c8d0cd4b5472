from __future__ import annotations

from typing import Any

import pytest

from datamodules.usage_error import UsageError
from experiments.table_layout import read_layout

TABLE = {
    'methods': {'plain': {'clip': 'CLIP'}, 'repair': {'par': 'PAR', 'abd': 'ABD'}},
    'attacks': {'badnet': 'BadNet'},
}


def test_methods_are_those_of_all_kinds_in_order() -> None:
    layout = read_layout(TABLE, ['abd', 'par', 'clip', 'hidden'], 'table')
    assert list(layout.methods.items()) == [('clip', 'CLIP'), ('par', 'PAR'), ('abd', 'ABD')]
    assert layout.attacks == {'badnet': 'BadNet'}


@pytest.mark.parametrize(
    ('table', 'message'),
    [
        (['clip'], 'table must have the keys methods and attacks, as in {methods: {no defense'),
        ({**TABLE, 'rows': {}}, 'table must have the keys'),
        ({**TABLE, 'methods': ['clip']}, 'table must have the keys'),
        ({**TABLE, 'methods': {'plain': ['clip']}}, r"table.methods.plain must map names .*; got \['clip'\]"),
        ({**TABLE, 'attacks': {}}, 'table.attacks must map names'),
        ({**TABLE, 'methods': {}}, 'table must have the keys'),
        (
            {**TABLE, 'methods': {'plain': {'clap': 'CLIP'}}},
            'table.methods: clap: not one of the methods that the grid',
        ),
        ({**TABLE, 'methods': {'a': {'clip': 'x'}, 'b': {'par': 'x'}}}, "table.methods: two are called 'x': give each"),
        ({**TABLE, 'attacks': {'a': 'x', 'b': 'x'}}, "table.attacks: two are called 'x': give each"),
        ({**TABLE, 'methods': {'a': {'clip': 'x'}, 'b': {'clip': 'y'}}}, 'table.methods: a method is listed twice'),
    ],
)
def test_mistakes_are_named(table: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_layout(table, ['clip', 'par', 'abd'], 'table')
