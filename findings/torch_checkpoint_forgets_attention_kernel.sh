#!/usr/bin/env bash
# torch 2.14.1: activation checkpointing does not restore the attention kernel that the forward pass was told to use.
#
# Versions: torch 2.14.1, numpy 2.4.6, Python 3.11, CPU.
#
# Expected: torch.utils.checkpoint runs a function again in the backward pass as it ran in the forward pass. It restores
# the random state and autocast, so one expects the same of torch.nn.attention.sdpa_kernel around the forward pass.
#
# What happens: the second run takes whatever kernel is the default when backward() is called. Another kernel saves other
# tensors, so backward() ends in a CheckpointError about shapes, which names neither attention nor sdpa_kernel. With the
# same context around backward(), gradients are the same to the last bit.
#
# Output seen:
#   sdpa_kernel around forward            CheckpointError
#   sdpa_kernel around forward, backward  gradient equal to that without checkpointing
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6

cat > "$folder/main.py" <<'PYTHON'
import sys
from contextlib import nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import CheckpointError, checkpoint


def attend(x):
    return scaled_dot_product_attention(x, x, x, is_causal=True).square()


def gradient(run, around_backward):
    x = torch.randn(2, 4, 16, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        loss = run(x).sum()
    with around_backward:
        loss.backward()
    return x.grad


def recomputed(x):
    return checkpoint(attend, x, use_reentrant=False)


try:
    gradient(recomputed, nullcontext())
    first = 'no error'
except CheckpointError:
    first = 'CheckpointError'
plain = gradient(attend, sdpa_kernel(SDPBackend.MATH))
equal = torch.equal(gradient(recomputed, sdpa_kernel(SDPBackend.MATH)), plain)
print(f'{"sdpa_kernel around forward":<37} {first}')
print(f'{"sdpa_kernel around forward, backward":<37} gradient {"equal to" if equal else "differs from"} that without checkpointing')
sys.exit(0 if first == 'CheckpointError' and equal else 1)
PYTHON
"$folder/venv/bin/python" "$folder/main.py"
