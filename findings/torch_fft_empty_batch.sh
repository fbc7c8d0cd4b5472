#!/usr/bin/env bash
# torch 2.14.1: torch.fft refuses an empty batch.
#
# Versions: torch 2.14.1 (wheel for Linux x86-64, with MKL), numpy 2.4.6, Python 3.11, CPU.
#
# Expected: `torch.fft.rfft2` of a tensor of shape (0, 3, 32, 32) gives shape (0, 3, 32, 17), as NumPy does.
# The transformed sides are not empty, and convolution, interpolation, matrix products and torch.linalg take a batch
# of no pictures, so code that selects rows by a mask works until a frequency filter meets a mask that selects none.
#
# What happens: every complex, real and inverse transform over the last sides raises a RuntimeError that speaks of
# "inconsistent configuration parameters" of MKL and does not mention the empty batch.
#
# Output seen:
#   numpy.fft.rfft2                  shape (0, 3, 32, 17)
#   torch.nn.functional.conv2d       shape (0, 4, 30, 30)
#   torch.nn.functional.interpolate  shape (0, 3, 16, 16)
#   torch.linalg.svdvals             shape (0, 3, 32)
#   torch.fft.rfft                   RuntimeError: MKL FFT error: Intel oneMKL DFTI ERROR: Inconsistent configuration parameters
#   torch.fft.rfft2                  RuntimeError: MKL FFT error: Intel oneMKL DFTI ERROR: Inconsistent configuration parameters
#   torch.fft.fft2                   RuntimeError: MKL FFT error: Intel oneMKL DFTI ERROR: Inconsistent configuration parameters
#   torch.fft.irfft2                 RuntimeError: MKL FFT error: Intel oneMKL DFTI ERROR: Inconsistent configuration parameters
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6

cat > "$folder/main.py" <<'PYTHON'
import sys

import numpy as np
import torch

pictures = torch.zeros(0, 3, 32, 32)
calls = {
    'numpy.fft.rfft2': lambda: np.fft.rfft2(pictures.numpy()),
    'torch.nn.functional.conv2d': lambda: torch.nn.functional.conv2d(pictures, torch.zeros(4, 3, 3, 3)),
    'torch.nn.functional.interpolate': lambda: torch.nn.functional.interpolate(pictures, size=16),
    'torch.linalg.svdvals': lambda: torch.linalg.svdvals(pictures),
    'torch.fft.rfft': lambda: torch.fft.rfft(pictures),
    'torch.fft.rfft2': lambda: torch.fft.rfft2(pictures),
    'torch.fft.fft2': lambda: torch.fft.fft2(pictures),
    'torch.fft.irfft2': lambda: torch.fft.irfft2(pictures.to(torch.complex64)),
}
as_described = True
for name, call in calls.items():
    try:
        outcome = f'shape {tuple(call().shape)}'
    except RuntimeError as error:
        outcome = f'RuntimeError: {error}'.splitlines()[0]
    print(f'{name:<32} {outcome}')
    as_described &= outcome.startswith('RuntimeError') == name.startswith('torch.fft')
sys.exit(0 if as_described else 1)
PYTHON
"$folder/venv/bin/python" "$folder/main.py"
