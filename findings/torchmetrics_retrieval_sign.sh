#!/usr/bin/env bash
# torchmetrics 1.9.0: some retrieval metrics ignore a relevant item with a negative score, others count it.
#
# Versions: torchmetrics 1.9.0, torch 2.14.1, Python 3.11, CPU.
#
# Expected: metrics of a ranking depend on the order of the scores alone. Adding a constant to all scores of a query
# (cosine similarities are negative as often as not in a young model, log-likelihoods and negated distances always)
# changes nothing.
#
# What happens: RetrievalRecall, RetrievalPrecision, RetrievalMRR and RetrievalMAP treat a relevant item whose score
# is 0 or less as irrelevant. The relevant item below is ranked first of three; with its score at -0.1 these four give
# 0, after adding 1 to all scores they give 1. RetrievalHitRate, RetrievalNormalizedDCG and RetrievalRPrecision give 1
# both times, so recall@1 and hit rate@1, the same number for one relevant item, differ. Nothing is reported.
# Shifting all scores above 0 first gives the numbers on the right.
#
# Output seen:
#   metric                   scores   scores + 1
#   RetrievalMAP                0.0          1.0
#   RetrievalMRR                0.0          1.0
#   RetrievalPrecision          0.0          1.0
#   RetrievalRecall             0.0          1.0
#   RetrievalHitRate            1.0          1.0
#   RetrievalNormalizedDCG      1.0          1.0
#   RetrievalRPrecision         1.0          1.0
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 torchmetrics==1.9.0

cat > "$folder/main.py" <<'PYTHON'
import sys

import torch
from torchmetrics import retrieval

SIGN_MATTERS = {'RetrievalRecall', 'RetrievalPrecision', 'RetrievalMRR', 'RetrievalMAP'}
ORDER_ALONE = {'RetrievalHitRate', 'RetrievalNormalizedDCG', 'RetrievalRPrecision'}
scores = torch.tensor([-0.1, -0.3, -0.5])
is_relevant = torch.tensor([True, False, False])
query = torch.zeros(3, dtype=torch.long)


def measure(name, shift):
    options = {} if name == 'RetrievalRPrecision' else {'top_k': 1}
    return getattr(retrieval, name)(**options)(scores + shift, is_relevant, indexes=query).item()


print('metric                   scores   scores + 1')
as_described = True
for name in (*sorted(SIGN_MATTERS), *sorted(ORDER_ALONE)):
    before, after = measure(name, shift=0), measure(name, shift=1)
    print(f'{name:<24} {before:6.1f}   {after:10.1f}')
    as_described &= (before, after) == ((0, 1) if name in SIGN_MATTERS else (1, 1))
sys.exit(0 if as_described else 1)
PYTHON
"$folder/venv/bin/python" "$folder/main.py"
