#!/usr/bin/env bash
# torchmetrics 1.9.0: the AUROC of the same scores depends on the batches in which they are passed.
#
# Versions: torchmetrics 1.9.0, torch 2.14.1, scikit-learn 1.9.1, Python 3.11.
#
# Expected: AUROC and average precision depend on the order of scores only. A class with `update` and `compute` collects
# them, so batches of 20 give what one batch of all gives, and what scikit-learn gives.
#
# What happens: scores outside of 0 to 1 are taken for logits and pass through a sigmoid, which keeps their order. But
# each call of `update` decides this anew, for its own batch. With cosines, a batch in which one is negative goes to values
# near 0.5, and a batch without stays near 0.1, so that all of the first rank above all of the second. One negative among
# a hundred cosines is enough. The same goes for any score that is in 0 to 1 for the most part, such as a distance. Passing
# `(1 + cosine) / 2` gives the true value with all batches.
#
# Output seen:
#   2,000 cosines, 0.9% of them negative; scikit-learn: AUROC 0.932, average precision 0.935
#   batch size   AUROC   average precision   both, of (1 + cosine) / 2
#         2000   0.932               0.935   0.932, 0.935
#          100   0.777               0.841   0.932, 0.935
#           20   0.800               0.748   0.932, 0.935
#            1   0.915               0.870   0.932, 0.935
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torchmetrics==1.9.0 torch==2.14.1 scikit-learn==1.9.1

cat > "$folder/main.py" <<'PYTHON'
import sys

import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

PAIRS = 2000
generator = torch.Generator().manual_seed(0)
matches = torch.randint(0, 2, (PAIRS,), generator=generator)
cosine = 0.1 + 0.1 * matches + 0.05 * torch.randn(PAIRS, generator=generator)


def measure(score, batch_size):
    """AUROC and average precision of scores that come in batches."""
    metrics = BinaryAUROC(), BinaryAveragePrecision()
    for batch in zip(score.split(batch_size), matches.split(batch_size), strict=True):
        for metric in metrics:
            metric.update(*batch)
    return [metric.compute().item() for metric in metrics]


true = [function(matches.numpy(), cosine.numpy()) for function in (roc_auc_score, average_precision_score)]
share = (cosine < 0).float().mean()
print(f'{PAIRS:,} cosines, {share:.1%} of them negative; scikit-learn: AUROC {true[0]:.3f}, average precision {true[1]:.3f}')
print('batch size   AUROC   average precision   both, of (1 + cosine) / 2')
as_described = True
for batch_size in (PAIRS, 100, 20, 1):
    given, shifted = measure(cosine, batch_size), measure((1 + cosine) / 2, batch_size)
    print('{:10}   {:.3f}   {:17.3f}   {:.3f}, {:.3f}'.format(batch_size, *given, *shifted))
    error = max(abs(a - b) for a, b in zip(given, true, strict=True))
    as_described &= error < 1e-3 if batch_size == PAIRS else error > 0.02
    as_described &= max(abs(a - b) for a, b in zip(shifted, true, strict=True)) < 1e-3
sys.exit(0 if as_described else 1)
PYTHON
"$folder/venv/bin/python" "$folder/main.py"
