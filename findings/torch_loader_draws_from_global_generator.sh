#!/usr/bin/env bash
# torch 2.14.1: reading a loader that shuffles nothing changes the training that follows.
#
# Versions: torch 2.14.1, numpy 2.4.6, Python 3.11, CPU.
#
# Expected: a pass over a validation set, in evaluation mode, without gradients, with `shuffle=False` and no workers, uses
# no random number. A run that evaluates after each epoch ends with the same weights as one that does not.
#
# What happens: each time a DataLoader is iterated over, it draws a seed for workers from torch's global generator, even
# if it has no workers and nothing to shuffle. The order of the next epoch of training, dropout and augmentation follow
# from other numbers. So two runs with one seed part after the first evaluation, and comparing how often to evaluate
# compares seeds. A loader with a `generator` of its own draws from that one.
#
# Output seen:
#   evaluation                   first examples of 3 epochs             sum of the weights
#   none                         [0, 6, 1, 5] [0, 2, 6, 4] [6, 5, 4, 2]            -0.8447
#   after each epoch             [0, 6, 1, 5] [7, 1, 2, 3] [6, 0, 7, 2]            -0.6436
#   after each, own generator    [0, 6, 1, 5] [0, 2, 6, 4] [6, 5, 4, 2]            -0.8447
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6

cat > "$folder/main.py" <<'PYTHON'
import sys

import torch
from torch.utils.data import DataLoader, TensorDataset

INPUTS = torch.arange(8.0)[:, None] / 8


def train(heldout):
    """Three epochs, each followed by a pass over the held-out loader, if any: order of the examples, and weights."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Dropout(0.1), torch.nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    examples = DataLoader(TensorDataset(INPUTS, torch.arange(8)), shuffle=True)
    orders = []
    for _ in range(3):
        order = []
        for inputs, number in examples:
            optimizer.zero_grad()
            model(inputs).sub(inputs).square().sum().backward()
            optimizer.step()
            order.append(number.item())
        orders.append(order)
        if heldout is not None:
            model.eval()
            with torch.no_grad():
                for (inputs,) in heldout:
                    model(inputs)
            model.train()
    return orders, torch.cat([weight.flatten() for weight in model.parameters()]).detach()


heldout = TensorDataset(INPUTS)
results = {
    'none': train(None),
    'after each epoch': train(DataLoader(heldout, shuffle=False, num_workers=0)),
    'after each, own generator': train(DataLoader(heldout, shuffle=False, generator=torch.Generator())),
}
print('evaluation                   first examples of 3 epochs             sum of the weights')
for name, (orders, weights) in results.items():
    print(f'{name:<29}{" ".join(str(order[:4]) for order in orders):<39}{weights.sum():18.4f}')
(none, none_weights), (each, each_weights), (own, own_weights) = results.values()
as_described = none[0] == each[0] and none[1:] != each[1:] and not torch.equal(none_weights, each_weights)
sys.exit(0 if as_described and none == own and torch.equal(none_weights, own_weights) else 1)
PYTHON
"$folder/venv/bin/python" "$folder/main.py"
