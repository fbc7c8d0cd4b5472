from __future__ import annotations

from typing import Any

import pytest

from datamodules.usage_error import UsageError
from experiments.agreement import View, check_agreement

FIRST = View('node-a', 'pairs', 'last.ckpt')


def test_processes_that_see_the_same_agree() -> None:
    check_agreement([FIRST, FIRST, FIRST._replace(host='node-b')])


@pytest.mark.parametrize(
    ('other', 'sentence'),
    [
        ({'pairs': 'others'}, r'^data: process 1 on node-b does not read the same pairs as process 0 on node-a: '),
        ({'checkpoint': None}, r'^ckpt_path: process 1 on node-b finds None, and process 0 on node-a finds last\.ckpt'),
    ],
)
def test_one_that_sees_something_else_is_named(other: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        check_agreement([FIRST, FIRST._replace(host='node-b', **other)])
