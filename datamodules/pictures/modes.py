"""Converts pictures of every mode to 8-bit RGB without losing what they show."""

from __future__ import annotations

import numpy as np
from PIL import Image

_BACKGROUND = 'white'  # as on the pages that pictures with transparency are made for
_ORIENTATION = 0x0112  # EXIF
_TURNS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts an opened picture to RGB: upright, on a white background, with its range of values scaled to 8 bits."""
    is_deep_color = find_mode(image) != image.mode
    image.load()  # PIL turns a TIFF by itself
    turn = _TURNS.get(_read_orientation(image))
    if image.mode == 'F' or image.mode.startswith('I'):
        image = Image.fromarray(scale_to_bytes(np.asarray(image)))
    elif is_deep_color:
        image = _stretch(image)
    rgb = _blend(image) if image.has_transparency_data else image.convert('RGB')
    return rgb if turn is None else rgb.transpose(turn)


def find_mode(image: Image.Image) -> str:
    """Returns the mode of an opened picture that is not loaded yet, with ``;16`` for color of 16 bits per channel.

    Pillow has no mode for such color and keeps the high byte of each channel, so its own name does not tell.
    """
    raw_modes = [str(tile[3]) for tile in getattr(image, 'tile', ())]
    is_deep = not image.mode.startswith('I') and any(';16' in mode for mode in raw_modes)
    return f'{image.mode};16' if is_deep else image.mode


def scale_to_bytes(values: np.ndarray) -> np.ndarray:
    """Scales values of any type to 0 to 255 by their own range; what is not finite gets the nearest end of it.

    Cameras and instruments use a part of 16 bits only, and floats have no range by their type. A picture of a single
    value becomes black if it is zero or negative, else white.
    """
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if low == high:
        low, high = min(low, 0.0), max(high, 0.0)
    scaled = np.nan_to_num(values.astype(np.float64), copy=False, nan=low, posinf=high, neginf=low)
    scaled -= low
    scaled *= 255 / (high - low) if high > low else 0.0
    return np.rint(scaled, out=scaled).astype(np.uint8)


def _stretch(image: Image.Image) -> Image.Image:
    """Scales the color of a picture, not its transparency, by the range of all its channels, which keeps the hues."""
    rgb = Image.fromarray(scale_to_bytes(np.asarray(image.convert('RGB'))))
    if image.mode == 'RGBA':
        rgb.putalpha(image.getchannel('A'))
    return rgb


def _blend(image: Image.Image) -> Image.Image:
    rgba = image.convert('RGBA')
    rgb = Image.new('RGB', rgba.size, _BACKGROUND)
    rgb.paste(rgba, mask=rgba.getchannel('A'))
    return rgb


def _read_orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # PIL's parser raises anything on damaged metadata; the pixels may be intact
        return None
