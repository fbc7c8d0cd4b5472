from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integration.runs import Run, Seen, outcome, run


@pytest.fixture(scope='session')
def seen() -> Seen:
    """What the model of ``finished`` got to see."""
    return Seen()


@pytest.fixture(scope='session')
def finished(tmp_path_factory: pytest.TempPathFactory, seen: Seen) -> Run:
    """A run that nothing has happened to, on one process and without workers."""
    return run(tmp_path_factory.mktemp('finished'), watch=[seen])


@pytest.fixture(scope='session')
def whole(finished: Run) -> dict[str, Any]:
    """What it has left."""
    return outcome(Path(finished.trainer.default_root_dir))
