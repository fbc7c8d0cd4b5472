from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.usage_error import UsageError
from lightning_modules.checkpoint_version import CHECKPOINT_VERSION, add_version, check_version
from lightning_modules.clip import CLIP
from tests.helpers.tiny import tiny_architecture


def test_each_checkpoint_has_one(tmp_path: Path) -> None:
    checkpoint: dict[str, Any] = {}
    CLIP(tiny_architecture(tmp_path)).on_save_checkpoint(checkpoint)
    assert checkpoint['checkpoint_version'] == CHECKPOINT_VERSION
    assert isinstance(checkpoint['clipward_version'], str)


@pytest.mark.parametrize('checkpoint', [{}, {'checkpoint_version': 1}, {'checkpoint_version': CHECKPOINT_VERSION}])
def test_older_and_present_ones_are_read(checkpoint: dict[str, Any]) -> None:
    check_version(checkpoint, 'ckpt_path')


def test_a_newer_one_is_refused_with_the_release_that_wrote_it() -> None:
    checkpoint = {'checkpoint_version': CHECKPOINT_VERSION + 1, 'clipward_version': '9.1'}
    with pytest.raises(UsageError, match=r'^ckpt_path is a checkpoint of version 3, by release 9\.1; .* later one\.$'):
        check_version(checkpoint, 'ckpt_path')


def test_a_newer_one_gives_no_weights_to_start_from(tmp_path: Path) -> None:
    architecture, checkpoint = tiny_architecture(tmp_path), {}
    add_version(checkpoint)
    checkpoint |= {'state_dict': CLIP(architecture).state_dict(), 'checkpoint_version': CHECKPOINT_VERSION + 1}
    torch.save(checkpoint, tmp_path / 'new.ckpt')
    with pytest.raises(UsageError, match=r"^model\.init_from='.*new\.ckpt' is a checkpoint of version 3"):
        CLIP(architecture, init_from=str(tmp_path / 'new.ckpt'))


def test_weights_without_a_version_can_be_started_from(tmp_path: Path) -> None:
    architecture = tiny_architecture(tmp_path)
    torch.save({'state_dict': CLIP(architecture).state_dict()}, tmp_path / 'old.ckpt')
    assert not CLIP(architecture, init_from=str(tmp_path / 'old.ckpt')).untrained
