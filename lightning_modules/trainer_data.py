"""The data that a trainer trains on."""

from __future__ import annotations

from typing import Any, cast

import lightning as L


def data_of(trainer: L.Trainer) -> Any:
    """The trainer's datamodule, ``None`` without one. Lightning sets it without declaring it, here alone said so."""
    return cast(Any, trainer).datamodule
