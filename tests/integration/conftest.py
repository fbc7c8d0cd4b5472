from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integration.runs import Run, SeenBatches, load_outcome, run


@pytest.fixture(scope='session')
def seen() -> SeenBatches:
    """The batches that the model of ``finished`` received."""
    return SeenBatches()


@pytest.fixture(scope='session')
def finished(tmp_path_factory: pytest.TempPathFactory, seen: SeenBatches) -> Run:
    """An uninterrupted run, on one process and without loader workers."""
    return run(tmp_path_factory.mktemp('finished'), watch=[seen])


@pytest.fixture(scope='session')
def whole(finished: Run) -> dict[str, Any]:
    """The outcome of ``finished``."""
    return load_outcome(Path(finished.trainer.default_root_dir))
