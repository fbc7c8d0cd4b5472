#!/usr/bin/env bash
# open_clip 3.3.0: with its defaults ClipLoss scales the encoders' gradient by 1 / world size, and only theirs.
#
# Versions: open_clip_torch 3.3.0, torch 2.14.1, torchvision 0.29.1, Python 3.11, CPU with gloo.
#
# Expected: the loss over the gathered batch under DistributedDataParallel gives the gradient of the same batch in
# one process, or all parameters' gradients are off by one common factor.
#
# What happens (`local_loss=False, gather_with_grad=False`, the defaults): features of other ranks are gathered
# without gradient, each rank differentiates its own rows only, and DDP takes the mean of these parts where a sum is
# due. The encoders get 1 / world size of the gradient. `logit_scale` is seen whole by every rank and gets all of it,
# so the balance of the two, the effect of gradient clipping, and of Adam's epsilon change with the number of
# processes. `local_loss=True` with gathered features that carry no gradient is not off by a factor: features get a
# gradient as queries and none as candidates, about half of the whole, and the direction is wrong as well.
# `gather_with_grad=True` gives the true gradient with both values of `local_loss`.
#
# Output seen (two linear encoders, 16 pairs; against one process with all 16):
#   processes  local_loss  gather_with_grad  encoders: norm, cosine  logit_scale
#           2  False       False                      0.500,  1.000        1.000
#           2  True        False                      0.509,  0.976        1.000
#           2  False       True                       1.000,  1.000        1.000
#           2  True        True                       1.000,  1.000        1.000
#           4  False       False                      0.250,  1.000        1.000
#           4  True        False                      0.509,  0.976        1.000
#           4  False       True                       1.000,  1.000        1.000
#           4  True        True                       1.000,  1.000        1.000
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 torchvision==0.29.1 open_clip_torch==3.3.0

cat > "$folder/main.py" <<'PYTHON'
import sys
import warnings

import torch
import torch.distributed as dist
from open_clip.loss import ClipLoss
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

PAIRS = 16
SETTINGS = [(False, False), (True, False), (False, True), (True, True)]  # local_loss, gather_with_grad


class Clip(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.image = nn.Linear(12, 16)
        self.text = nn.Linear(10, 16)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, images, texts):
        image = functional.normalize(self.image(images), dim=-1)
        text = functional.normalize(self.text(texts), dim=-1)
        return image, text, self.logit_scale.exp()


def make_pairs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(PAIRS, 12, generator=generator), torch.randn(PAIRS, 10, generator=generator)


def gradients(model):
    encoders = [*model.image.parameters(), *model.text.parameters()]
    return torch.cat([parameter.grad.flatten() for parameter in encoders]), model.logit_scale.grad


def work(rank, world_size, folder):
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/store{world_size}', rank=rank, world_size=world_size)
    images, texts = make_pairs()
    alone = Clip()
    ClipLoss()(*alone(images, texts)).backward()
    true_encoders, true_scale = gradients(alone)
    mine = slice(rank * PAIRS // world_size, (rank + 1) * PAIRS // world_size)
    rows = []
    for local_loss, gather_with_grad in SETTINGS:
        model = DistributedDataParallel(Clip())
        loss = ClipLoss(local_loss, gather_with_grad, rank=rank, world_size=world_size)
        loss(*model(images[mine], texts[mine])).backward()
        encoders, scale = gradients(model.module)
        cosine = functional.cosine_similarity(encoders, true_encoders, dim=0)
        rows.append([encoders.norm() / true_encoders.norm(), cosine, scale / true_scale])
    if rank == 0:
        torch.save(torch.tensor(rows), f'{folder}/rows{world_size}')
    dist.destroy_process_group()


if __name__ == '__main__':
    folder = sys.argv[1]
    as_described = True
    print('processes  local_loss  gather_with_grad  encoders: norm, cosine  logit_scale')
    for world_size in (2, 4):
        torch.multiprocessing.spawn(work, (world_size, folder), nprocs=world_size)
        rows = torch.load(f'{folder}/rows{world_size}')
        for (local_loss, gather_with_grad), (norm, cosine, scale) in zip(SETTINGS, rows.tolist(), strict=True):
            print(f'{world_size:9}  {local_loss!s:<10}  {gather_with_grad!s:<16}  {norm:14.3f}, {cosine:6.3f}  {scale:11.3f}')
        exact = torch.ones(3)
        as_described &= torch.allclose(rows[0], torch.tensor([1 / world_size, 1, 1]), atol=1e-3)
        as_described &= bool(rows[1, 1] < 0.99 and abs(rows[1, 2] - 1) < 1e-3)
        as_described &= torch.allclose(rows[2], exact, atol=1e-3) and torch.allclose(rows[3], exact, atol=1e-3)
    sys.exit(0 if as_described else 1)
PYTHON
"$folder/venv/bin/python" "$folder/main.py" "$folder"
