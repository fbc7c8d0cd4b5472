from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integration.runs import PLACES, Died, differences, last, outcome, run

pytestmark = [
    pytest.mark.filterwarnings('ignore:.*LeafSpec.*:FutureWarning'),  # of Lightning 2.6 on a newer torch
    pytest.mark.filterwarnings('ignore:The dirpath has changed'),  # a resumed run has a folder of its own
]


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp('whole')
    run(folder)
    return outcome(folder)


@pytest.mark.parametrize('name', PLACES)
def test_a_run_that_died_goes_on_as_if_it_had_not(tmp_path: Path, whole: dict[str, Any], name: str) -> None:
    with pytest.raises(Died):
        run(tmp_path / 'died', place=PLACES[name])
    run(tmp_path / 'resumed', resume=last(tmp_path / 'died'))
    assert differences(whole, outcome(tmp_path / 'resumed')) == []
