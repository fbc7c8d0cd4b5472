#!/usr/bin/env bash
# torch 2.14.1: convert_sync_batchnorm, and so Lightning's sync_batchnorm, silently removes the activations of timm's models.
#
# Versions: torch 2.14.1, torchvision 0.29.1, timm 1.0.31, lightning 2.6.6, numpy 2.4.6, Python 3.11, CPU.
#
# Expected: SyncBatchNorm.convert_sync_batchnorm replaces batch norms by ones that share their statistics between
# processes. In evaluation mode, or on one process, the model computes what it did before.
#
# What happens: timm keeps the activation inside the norm (BatchNormAct2d is a subclass of BatchNorm2d). The conversion
# replaces the whole module by a plain SyncBatchNorm, which keeps the activation as a child and never calls it, without a
# warning: of RegNetY-200MF, all activations after norms, 44 of them. The outputs have little to do with the model's any
# more. Lightning's Trainer(sync_batchnorm=True) calls the same function. timm has a converter of its own,
# timm.layers.convert_sync_batchnorm.
#
# Output seen:
#   norms with an activation     before 44   after torch's 0   after Lightning's 0   after timm's 44
#   largest change of an output  after torch's 0.67 of the largest output, after timm's 0.00
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 torchvision==0.29.1 timm==1.0.31 lightning==2.6.6 numpy==2.4.6

cat > "$folder/main.py" <<'PYTHON'
import sys

import timm
import torch
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from timm.layers import BatchNormAct2d, SyncBatchNormAct, convert_sync_batchnorm


def model():
    torch.manual_seed(0)
    return timm.create_model('regnety_002', pretrained=False, num_classes=0).eval()


def activations(network):
    return sum(isinstance(part, BatchNormAct2d | SyncBatchNormAct) for part in network.modules())


pictures = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
converters = {
    "torch's": torch.nn.SyncBatchNorm.convert_sync_batchnorm,
    "Lightning's": TorchSyncBatchNorm().apply,
    "timm's": convert_sync_batchnorm,
}
with torch.no_grad():
    before = model()(pictures)
    converted = {name: convert(model()).eval() for name, convert in converters.items()}
    change = {
        name: ((network(pictures) - before).abs().max() / before.abs().max()).item()
        for name, network in converted.items()
        if name != "Lightning's"
    }
counts = {name: activations(network) for name, network in converted.items()}
print(f'norms with an activation     before {activations(model())}', *(f'after {name} {n}' for name, n in counts.items()), sep='   ')
of_torch, of_timm = change["torch's"], change["timm's"]
print(f"largest change of an output  after torch's {of_torch:.2f} of the largest output, after timm's {of_timm:.2f}")
as_seen = [*counts.values()] == [0, 0, 44] and of_torch > 0.1 and of_timm < 1e-4
sys.exit(0 if as_seen else 1)
PYTHON
"$folder/venv/bin/python" "$folder/main.py"
