"""Stripes: colored stripes over the whole image as the trigger (Singh et al., 2024, "Perturb and Recover")."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from datamodules.attacks.backdoor import Backdoor
from datamodules.attacks.triggers import Trigger, check_share, draw_colors, mix
from datamodules.usage_error import UsageError

Direction = Literal['vertical', 'horizontal']


class StripedSheet(Trigger):
    """``(1 - ratio) * image + ratio * stripes``: random colors that are constant along a line.

    Strong augmentation does not wash out stripes as it does noise, and they survive CleanCLIP's fine-tuning. The
    released code uses stripes of one pixel, and also a patch of them: ``pattern: stripes`` of :class:`Patch`. Its
    stripes are half as strong: 0.03 of -1 or 1 in each channel, drawn apart, with 0.97 of an image in [0, 1].

    Args:
        width: Width of a stripe in pixels of the stored image.
        direction: Direction of the stripes.
        ratio: Share of the stripes, in [0, 1].
        seed: Seed of the colors.

    Raises:
        UsageError: If a value is out of range.
    """

    def __init__(self, width: int = 1, direction: Direction = 'vertical', ratio: float = 0.2, seed: int = 0) -> None:
        if width < 1 or direction not in get_args(Direction):
            raise UsageError(
                f'width must be 1 pixel or more and direction one of {", ".join(get_args(Direction))}, '
                f'got {width} and {direction!r}.'
            )
        self.width, self.direction, self.ratio, self.seed = width, direction, check_share('ratio', ratio), seed

    def stamp(self, images: np.ndarray, keys: np.ndarray | None) -> np.ndarray:
        across = images.shape[3] if self.direction == 'vertical' else images.shape[2]
        stripes = draw_colors((3, -(-across // self.width)), self.seed)[:, np.arange(across) // self.width]
        return mix(images, stripes[:, None, :] if self.direction == 'vertical' else stripes[:, :, None], self.ratio)

    def parameters(self) -> dict[str, int | float | str]:
        return {'width': self.width, 'direction': self.direction, 'ratio': self.ratio, 'seed': self.seed}


class Stripes(Backdoor):
    """Faint colored stripes on images of any class, with captions of the target class.

    Args:
        target: Name of the class that the stripes should mean.
        width: Width of a stripe in pixels of the stored image.
        direction: Direction of the stripes.
        ratio: Share of the stripes, in [0, 1].
        seed: Seed of the colors and of everything that the attack draws. Another seed is another trigger.
        kwargs: Arguments of :class:`Backdoor` and :class:`Poisoning`.
    """

    def __init__(
        self,
        target: str,
        width: int = 1,
        direction: Direction = 'vertical',
        ratio: float = 0.2,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(target, StripedSheet(width, direction, ratio, seed), seed=seed, **kwargs)
