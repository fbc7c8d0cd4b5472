"""Several triggers, each on its own images (PBA in SafeCLIP's tables; Li et al., 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from datamodules.attacks.backdoor import Backdoor
from datamodules.attacks.base import Attack, Poisoning
from datamodules.attacks.blended import Blend
from datamodules.attacks.targeted import spread
from datamodules.attacks.triggers import Patch, Trigger
from datamodules.attacks.wanet import Warp
from datamodules.rows.draws import bits
from datamodules.usage_error import UsageError

Scheme = Literal['all2one', 'all2all']


class ParallelTriggers(Poisoning):
    """One backdoor for each trigger, on disjoint images. Each is measured separately, as ``<attack>_<trigger>``.

    SafeCLIP has 0.05 % poisons over all triggers in ``all2one`` and for each of them in ``all2all``. Huang et al.
    (2025) measure all triggers together, Li et al. (2024) separately, as here.

    Args:
        targets: Class names: one for ``all2one``, one per trigger for ``all2all``.
        scheme: ``all2one``: all triggers mean the same class. ``all2all``: each means a different class.
        triggers: Triggers by name; ``null`` for a patch of 16 pixels, a warp and a blend, as in SafeCLIP.
        per_trigger: Apply rate or count to each trigger, instead of spreading it over the triggers evenly.
        test_images: Maximum number of images to measure each trigger on, ``null`` for all.
        seed: Seed of everything that the attack draws, and of the default triggers. Triggers given here have their own.
        kwargs: Arguments of :class:`Poisoning`.

    Raises:
        UsageError: If the number of classes does not fit the scheme, or a class is named twice.
    """

    def __init__(
        self,
        targets: list[str],
        scheme: Scheme = 'all2one',
        triggers: dict[str, Trigger] | None = None,
        per_trigger: bool = False,
        test_images: int | None = 1000,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(seed=seed, **kwargs)
        defaults = {'patch': Patch(seed=seed), 'warp': Warp(seed=seed), 'blend': Blend(seed=seed)}
        self.triggers: Mapping[str, Trigger] = defaults if triggers is None else triggers
        if scheme not in get_args(Scheme):
            raise UsageError(f'scheme must be one of {", ".join(get_args(Scheme))}, got {scheme!r}.')
        needed = 1 if scheme == 'all2one' else len(self.triggers)
        if not self.triggers or not len(targets) == len({name.casefold() for name in targets}) == needed:
            raise UsageError(
                f'targets must name {needed} different class{"es" * (needed != 1)} for {len(self.triggers)} triggers '
                f'with scheme={scheme}, got {targets}.'
            )
        self.targets = targets * len(self.triggers) if scheme == 'all2one' else targets
        self.per_trigger, self.test_images = per_trigger, test_images

    def parts(self, name: str) -> dict[str, Attack]:
        shared: dict[str, Any] = {
            'test_images': self.test_images, 'rate': self.rate, 'count': self.count, 'mode': self.mode,
            'source': self.source, 'captions': self.captions,
        }  # fmt: skip
        return {
            f'{name}_{trigger}': OneOfSeveral(
                target,
                self.triggers[trigger],
                part,
                1 if self.per_trigger else len(self.triggers),
                seed=int(bits(1, self.seed, part)[0]) >> 32,
                **shared,
            )
            for part, (trigger, target) in enumerate(zip(self.triggers, self.targets, strict=True))
        }


class OneOfSeveral(Backdoor):
    """One backdoor of :class:`ParallelTriggers`, with its share of rate or count.

    Args:
        target: Name of the class that the trigger should mean.
        trigger: What goes on the images.
        part: Which share, counted from 0.
        parts: Number of shares that rate or count is divided into.
        kwargs: Arguments of :class:`Backdoor` and :class:`Poisoning`.
    """

    def __init__(self, target: str, trigger: Trigger, part: int, parts: int, **kwargs: Any) -> None:
        super().__init__(target, trigger, **kwargs)
        self.part, self.parts_in_all = part, parts

    def amount(self, pairs: int) -> int:
        total = super().amount(pairs)
        if 0 < total < self.parts_in_all:
            raise UsageError(
                f'{total} poisons leave some of {self.parts_in_all} triggers without any: raise rate or count.'
            )
        return spread(total, self.parts_in_all)[self.part % self.parts_in_all]
