"""Label-consistent: the trigger goes on images that show the target class, and captions stay (Turner et al., 2019)."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import pyarrow.compute as pc

from datamodules.attacks.backdoor import CaptionsKept
from datamodules.attacks.base import AttackPool
from datamodules.attacks.hardened import Hardened
from datamodules.attacks.hybrid import Chain
from datamodules.attacks.triggers import Patch, Pattern, Position
from datamodules.usage_error import UsageError

Match = Literal['word', 'substring']
Harden = Literal['none', 'pgd']


class LabelConsistent(CaptionsKept):
    """A patch on images whose own caption names the target class; nobody who reads the pair finds fault with it.

    Turner et al. first make the images harder to recognize, so that a model has to rely on the patch: ``harden: pgd``.
    CleanCLIP's and SafeCLIP's released codes do not. Success is measured on images of other classes, with the patch
    alone.

    Args:
        target: Name of the class that the patch is to mean.
        size: Side of the patch in pixels of the stored image.
        pattern: What it shows, see :class:`Patch`; CleanCLIP's is ``gaussian_wrapped`` at ``random`` places, that of
            Huang et al. (2025) ``dots``, Turner et al.'s a ``checker`` of 3 pixels on 32 in ``four_corners``.
        block: Side in pixels of a square of ``blocks`` and ``checker``, width of one of the ``stripes``.
        position: Where it goes.
        margin: Pixels between patch and border.
        amplitude: How far a pixel may move, as a fraction of 255; Turner et al. hide the patch at 32/255.
        test_amplitude: The same on the images that success is measured on; ``null`` for that of training.
        match: ``word``: captions name the class as a word of its own, in the singular or plural, in any case.
            ``substring``: anywhere, letter by letter, as CleanCLIP's released code has it: ``suit`` in ``suitcase``.
        harden: ``pgd``: poisoned images are moved away from their class first, by projected gradient steps on another
            model. That is done once, by ``clipward harden`` with this configuration, into the file ``hardened``.
        hardened: Path of that file, which is read when the data is set up.
        seed: Seed of the patch and of everything that the attack draws: two seeds are two triggers.
        kwargs: Arguments of :class:`Backdoor` and :class:`Poisoning`.

    Raises:
        UsageError: If a value is out of range or a name unknown, or ``harden: pgd`` comes without a file.
    """

    sought = 'whose caption names'

    def __init__(
        self,
        target: str,
        size: int = 16,
        pattern: Pattern = 'noise',
        block: int = 4,
        position: Position = 'bottom_right',
        margin: int = 0,
        amplitude: float = 1.0,
        test_amplitude: float | None = None,
        match: Match = 'word',
        harden: Harden = 'none',
        hardened: str | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        for argument, value, choices in (('match', match, Match), ('harden', harden, Harden)):
            if value not in get_args(choices):
                raise UsageError(f'{argument} must be one of {", ".join(get_args(choices))}, got {value!r}.')
        if harden == 'pgd' and hardened is None:
            raise UsageError('hardened must be the path of a file that clipward harden makes, for harden is pgd.')
        self.match, self.hardened = match, hardened if harden == 'pgd' else None
        strengths = amplitude, amplitude if test_amplitude is None else test_amplitude
        patch, tested = (Patch(size, pattern, block, position, margin, seed, strength) for strength in strengths)
        trigger = patch if self.hardened is None else Chain([Hardened(self.hardened), patch])
        super().__init__(target, trigger, test_trigger=tested, seed=seed, **kwargs)

    def candidates(self, pool: AttackPool, target: int) -> np.ndarray:
        if self.match == 'word':
            rows = pool.captions_of(target, self.source)
        else:
            captions = pool.origin(self.source).caption
            rows = np.flatnonzero(np.asarray(pc.match_substring(captions, pool.classes[target])))
        return pool.untaken(self.source, rows)
