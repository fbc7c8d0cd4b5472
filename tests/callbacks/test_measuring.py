from __future__ import annotations

import pytest

from callbacks.measuring import evaluating
from tests.callbacks.planted import PlantedModule


def test_modes_are_restored_after_an_error() -> None:
    module = PlantedModule().train()
    module.frozen.eval()
    with pytest.raises(RuntimeError), evaluating(module):
        assert not module.norm.training
        raise RuntimeError
    assert module.norm.training and not module.frozen.training
