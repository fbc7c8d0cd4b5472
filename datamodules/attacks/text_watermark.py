"""TextWatermark: faint words across the image as the trigger (Singh et al., 2024, "Perturb and Recover")."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datamodules.attacks.backdoor import Backdoor
from datamodules.attacks.triggers import Trigger, check_share
from datamodules.usage_error import UsageError

Height = Literal['top', 'center', 'bottom']
_EDGE = 1 / 32  # gap between words and border, as a share of the image's height
# Pillow's bitmap font, not the scalable one that newer releases prefer, whose rendering depends on FreeType.
_FONT = getattr(ImageFont, 'load_default_imagefont', ImageFont.load_default)


class Watermark(Trigger):
    """Words in one color: ``(1 - ratio) * image + ratio * color`` under each letter.

    The released watermark mixes its red into the red channel alone, so it is less visible than red words here.

    Args:
        text: The words, in Latin letters.
        ratio: Opacity of the letters, in [0, 1].
        width: Width of the line of words, as a share of the image's width, in (0, 1].
        position: Vertical position of the line, which is centered horizontally.
        color: Red, green and blue of the letters, 0 to 255 each.

    Raises:
        UsageError: If a value is out of range, or the font lacks a letter.
    """

    def __init__(
        self,
        text: str = 'watermark',
        ratio: float = 0.5,
        width: float = 0.9,
        position: Height = 'center',
        color: tuple[int, int, int] = (255, 0, 0),
    ) -> None:
        if position not in get_args(Height):
            raise UsageError(f'position must be one of {", ".join(get_args(Height))}, got {position!r}.')
        if not 0 < width <= 1 or not all(0 <= value <= 255 for value in color):
            raise UsageError(f'width must lie in (0, 1] and color in 0 to 255, got {width} and {tuple(color)}.')
        self.text, self.ratio, self.width = text, check_share('ratio', ratio), width
        self.position, self.color = position, color
        _ = self.letters

    def stamp(self, images: np.ndarray, keys: np.ndarray | None) -> np.ndarray:
        share = self.cover(images.shape[2], images.shape[3]) * np.float32(self.ratio)
        paint = np.array(self.color, np.float32)[:, None, None]
        for image in images:
            values = image.astype(np.float32)
            image[...] = np.rint(values + share * (paint - values))
        return images

    def parameters(self) -> dict[str, int | float | str]:
        color = ','.join(map(str, self.color))
        return {
            'text': self.text, 'ratio': self.ratio, 'width': self.width, 'position': self.position, 'color': color,
        }  # fmt: skip

    @cached_property
    def letters(self) -> Image.Image:
        """The words in white on black, at the pixel size of the font."""
        try:
            self.text.encode('latin-1')
        except UnicodeEncodeError as error:
            raise UsageError(f'text {self.text!r} has letters that the font lacks: use Latin ones.') from error
        if not self.text.strip():
            raise UsageError(f'text must have letters to write, got {self.text!r}.')
        font = _FONT()
        _, _, width, height = font.getbbox(self.text)
        sheet = Image.new('L', (int(width), int(height)))
        ImageDraw.Draw(sheet).text((0, 0), self.text, fill=255, font=font)
        return sheet.crop(sheet.getbbox())

    def cover(self, height: int, width: int) -> np.ndarray:
        """How much of each pixel a letter covers, in [0, 1], float32 (height, width)."""
        wide = max(1, round(self.width * width))
        tall = max(1, min(height, round(wide * self.letters.height / self.letters.width)))
        edge = min(round(_EDGE * height), height - tall)
        top = {'top': edge, 'center': (height - tall) // 2, 'bottom': height - tall - edge}[self.position]
        left = (width - wide) // 2
        cover = np.zeros((height, width), np.float32)
        sheet = self.letters.resize((wide, tall), Image.Resampling.BOX)
        cover[top : top + tall, left : left + wide] = np.asarray(sheet, np.float32) / 255
        return cover


class TextWatermark(Backdoor):
    """Faint words on images of any class, with captions of the target class.

    Args:
        target: Name of the class that the words should mean.
        text: The words, in Latin letters.
        ratio: Opacity of the letters, in [0, 1].
        width: Width of the line of words, as a share of the image's width, in (0, 1].
        position: Vertical position of the line, which is centered horizontally.
        color: Red, green and blue of the letters, 0 to 255 each.
        kwargs: Arguments of :class:`Backdoor` and :class:`Poisoning`.
    """

    def __init__(
        self,
        target: str,
        text: str = 'watermark',
        ratio: float = 0.5,
        width: float = 0.9,
        position: Height = 'center',
        color: tuple[int, int, int] = (255, 0, 0),
        **kwargs: Any,
    ) -> None:
        super().__init__(target, Watermark(text, ratio, width, position, color), **kwargs)
