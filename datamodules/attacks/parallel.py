"""Several triggers, each on images of its own (PBA in SafeCLIP's tables; Li et al., 2024)."""

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
    """One backdoor for each trigger, on disjoint images; each is measured apart, as ``<attack>_<trigger>``.

    SafeCLIP has 0.05 % poisons over all triggers in ``all2one`` and for each of them in ``all2all``. Huang et al.
    (2025) measure all triggers in one pool, Li et al. (2024) apart, as here.

    Args:
        targets: Class names: one in ``all2one``, one for each trigger in ``all2all``.
        scheme: Whether all triggers mean one class, or each means another.
        triggers: Triggers by name; ``null`` for a patch of 16 pixels, a warp and a blend, as in SafeCLIP.
        per_trigger: Take rate or count for each trigger, instead of spreading it over them as evenly as can be.
        test_images: Most images to measure each trigger on, ``null`` for all.
        seed: Seed of everything that the attack draws, and of the three triggers. Those that are named have their own.
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
        usual = {'patch': Patch(seed=seed), 'warp': Warp(seed=seed), 'blend': Blend(seed=seed)}
        self.triggers: Mapping[str, Trigger] = usual if triggers is None else triggers
        if scheme not in get_args(Scheme):
            raise UsageError(f'scheme must be one of {", ".join(get_args(Scheme))}, got {scheme!r}.')
        wanted = 1 if scheme == 'all2one' else len(self.triggers)
        if not self.triggers or not len(targets) == len({name.casefold() for name in targets}) == wanted:
            raise UsageError(
                f'targets must name {wanted} different class{"es" * (wanted != 1)} for {len(self.triggers)} triggers '
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
    """A backdoor that gets its share of rate or count: what :class:`ParallelTriggers` consists of.

    Args:
        target: Name of the class that the trigger is to mean.
        trigger: What goes on the images.
        part: Which share, counted from 0.
        parts: Shares that rate or count is spread over.
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
