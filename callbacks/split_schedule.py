"""When a split is made: what a module says about the sides of its epochs."""

from __future__ import annotations

from typing import Any, Protocol, cast

import lightning as L

MAX_WARM_UP_EPOCHS = 1000  # how far ahead to look for the first epoch that trains both sides


class Sided(Protocol):
    """A module whose ``sides`` gives the sides that an epoch trains on and the number of views of each, as CLIP."""

    def sides(self, epoch: int) -> dict[str, int]: ...


def sides_of(module: L.LightningModule, epoch: int) -> dict[str, int]:
    """Number of views of each side that an epoch trains."""
    return cast(Sided, module).sides(epoch)


def trains_both_sides(module: L.LightningModule, epoch: int) -> bool:
    """Whether an epoch needs a split."""
    return {'cross_modal', 'within_modal'} <= sides_of(module, epoch).keys()


def first_split(module: L.LightningModule) -> int | None:
    """The first epoch that trains both sides; ``None`` if none does."""
    return next((epoch for epoch in range(MAX_WARM_UP_EPOCHS) if trains_both_sides(module, epoch)), None)


def extend_slow_phase(module: Any) -> bool:
    """Asks the module for one more slow epoch; ``False`` if it has none to give."""
    extend = getattr(module, 'extend_slow_phase', None)
    return extend is not None and bool(extend())
