"""Label-consistent: a trigger on images of the target class, whose captions stay (Turner et al., 2019)."""

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
    """A patch on images whose own caption names the target class, so that no pair looks wrong to a reader.

    Turner et al. first make the images harder to recognize, so that a model has to rely on the patch: ``harden: pgd``.
    The released code of CleanCLIP and the working repository of SafeCLIP's first author do not. Success is measured on
    images of other classes with only the patch on.

    Args:
        target: Name of the class that the patch should mean.
        size: Side of the patch in pixels of the stored image.
        pattern: ``noise`` (random pixels), ``blocks`` (random squares), ``solid`` (white), ``checker`` (Turner et al.:
            3 pixels of 32, in ``four_corners``), ``dots`` (Huang et al., 2025), ``stripes``, or fresh noise for each
            image: ``gaussian`` (clipped) or ``gaussian_wrapped`` (modulo 256; CleanCLIP, at ``random`` places).
        block: Side in pixels of a square of ``blocks`` or ``checker``, or width of one of the ``stripes``.
        position: Where the patch goes; ``random`` is a different place on each image.
        margin: Pixels between patch and border.
        amplitude: Most that a value may move, as a fraction of 255; Turner et al. hide the patch at 32/255.
        test_amplitude: Amplitude on the images that success is measured on; ``null`` for that of training.
        match: ``word``: the caption names the class as a word, singular or plural, in upper or lower case.
            ``substring``: its letters occur anywhere, as in CleanCLIP's released code: ``suit`` in ``suitcase``.
        harden: ``pgd``: poisoned images are first moved away from their class, by projected gradient descent on
            another model. Run ``clipward harden`` once with this configuration to write the file ``hardened``.
        hardened: Path of that file, which is read when the data is set up.
        seed: Seed of the patch and of everything that the attack draws. Another seed is another trigger.
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
            raise UsageError('hardened must be the path of a file that clipward harden makes, as harden is pgd.')
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
