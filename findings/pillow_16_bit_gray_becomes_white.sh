#!/usr/bin/env bash
# Pillow 13.0.0: a gray picture of 16 bits becomes white when it is converted to RGB; one in color does not.
#
# Versions: Pillow 13.0.0, numpy 2.4.6, Python 3.11.
#
# Expected: `Image.open(file).convert('RGB')`, with which loaders of pictures begin, shows what the file shows at any
# depth: values of 16 bits are scaled to 8. For PNGs in color this is so.
#
# What happens: a gray PNG of 16 bits opens in mode I;16, and conversion from there cuts at 255 in place of scaling. All
# that is brighter than 1/257 of the range is white, so scans, X-rays and depth maps come out as blank pages, of the right
# size and mode and without a warning. The same pixels written as a PNG in color, also with 16 bits, open as RGB with the
# upper byte of each value, which is right.
#
# Output seen (the middle row of a ramp from 0 to 65535, every 32nd value):
#   8 bits, gray     L     [0, 32, 64, 96, 128, 160, 192, 224]
#   16 bits, gray    I;16  [0, 255, 255, 255, 255, 255, 255, 255]
#   16 bits, color   RGB   [0, 32, 64, 96, 128, 160, 192, 224]
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==13.0.0 numpy==2.4.6

cat > "$folder/main.py" <<'PYTHON'
import io
import struct
import sys
import zlib

import numpy as np
from PIL import Image

GRAY, COLOR = 0, 2  # color types of PNG
RAMP = np.arange(256, dtype=np.uint16)[None].repeat(16, 0)


def make_png(pixels, bits, kind):
    """A PNG of pixels (H, W) or (H, W, 3) in the byte order of the format, without filters."""
    rows = pixels.astype('>u2' if bits == 16 else 'u1')
    packed = zlib.compress(b''.join(b'\0' + row.tobytes() for row in rows))
    header = struct.pack('>IIBBBBB', pixels.shape[1], pixels.shape[0], bits, kind, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + make_chunk(b'IHDR', header) + make_chunk(b'IDAT', packed) + make_chunk(b'IEND', b'')


def make_chunk(name, data):
    return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))


files = {
    '8 bits, gray': make_png(RAMP, 8, GRAY),
    '16 bits, gray': make_png(RAMP * 257, 16, GRAY),
    '16 bits, color': make_png((RAMP * 257)[..., None].repeat(3, -1), 16, COLOR),
}
found = {}
for name, content in files.items():
    image = Image.open(io.BytesIO(content))
    mode = image.mode
    found[name] = np.asarray(image.convert('RGB'))[8, :, 0]
    print(f'{name:<16} {mode:<5} {found[name][::32].tolist()}')
eight, gray, color = found.values()
as_described = (eight == RAMP[8]).all() and (color == RAMP[8]).all() and (gray[1:] == 255).all()
sys.exit(0 if as_described else 1)
PYTHON
"$folder/venv/bin/python" "$folder/main.py"
