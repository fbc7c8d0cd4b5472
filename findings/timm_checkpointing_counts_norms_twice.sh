#!/usr/bin/env bash
# timm 1.0.31: gradient checkpointing moves the running statistics of batch norms twice with each batch.
#
# Versions: timm 1.0.31, torch 2.14.1, torchvision 0.29.1, numpy 2.4.6, Python 3.11, CPU.
#
# Expected: set_grad_checkpointing(True) saves memory and changes nothing else: the same gradients, the same buffers.
#
# What happens: the blocks run a second time in the backward pass, in training mode, so each batch norm in them updates its
# running mean and variance twice and counts two batches. Gradients are the same; the model in evaluation mode is not, as its
# statistics follow the last batches nearly twice as fast. The norm of the stem, outside the blocks, counts one batch.
#
# Output seen, of a ResNet-18 after one batch:
#   checkpointing off   stem counts 1, first block counts 1
#   checkpointing on    stem counts 1, first block counts 2
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet timm==1.0.31 torch==2.14.1 torchvision==0.29.1 numpy==2.4.6

cat > "$folder/main.py" <<'PYTHON'
import sys

import timm
import torch

pictures = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
counts, means = {}, {}
for is_on in (False, True):
    torch.manual_seed(0)
    model = timm.create_model('resnet18', pretrained=False, num_classes=0).train()
    model.set_grad_checkpointing(is_on)
    model(pictures.clone().requires_grad_()).sum().backward()
    norms = model.bn1, model.layer1[0].bn1
    counts[is_on] = [norm.num_batches_tracked.item() for norm in norms]
    means[is_on] = norms[1].running_mean
    print(f'checkpointing {"on" if is_on else "off":<5} stem counts {counts[is_on][0]}, first block counts {counts[is_on][1]}')
differ = not torch.allclose(means[False], means[True])
sys.exit(0 if counts == {False: [1, 1], True: [1, 2]} and differ else 1)
PYTHON
"$folder/venv/bin/python" "$folder/main.py"
