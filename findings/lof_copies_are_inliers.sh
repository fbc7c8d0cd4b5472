#!/usr/bin/env bash
# LocalOutlierFactor of scikit-learn calls many copies of one point perfect inliers and their neighbors the outliers.
#
# Versions: scikit-learn 1.9.1, numpy 2.4.6, Python 3.11.
#
# Expected: a lump of 50 identical rows (a poison whose trigger dominates its embedding, or plain duplicates) in 1,000
# spread-out rows may be missed, because it is dense. The other rows should score as they do without it, around -1.
#
# What happens: with more copies than `n_neighbors`, all neighbors of a copy lie at distance 0. scikit-learn adds
# 1e-10 to the mean reachability before inverting it, so each copy gets the density 1e10 and the factor -1 exactly.
# A normal row with some copies among its neighbors is compared with this density: its factor is about -1e10, so it
# leads every ranking, and averages and thresholds of the scores lose their meaning. `fit` warns of duplicates with
# `novelty=False` and says nothing with `novelty=True`, the mode needed to score new data. With `n_neighbors` larger
# than the number of copies all factors are of the usual size again (the copies are still not found).
#
# Output seen:
#   without copies:               normal rows -1.40 to -0.96
#   20 neighbors, novelty=False:  copies -1.00 to -1.00, 28 normal rows below -1e6 (lowest -3.6e+10), AUROC of copies 0.18, 1 warning(s)
#   20 neighbors, novelty=True :  copies -1.00 to -1.00, 28 normal rows below -1e6 (lowest -3.6e+10), AUROC of copies 0.18, 0 warning(s)
#   60 neighbors, novelty=False:  copies -1.00, normal rows -1.42 to -0.97, 0 warning(s)
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scikit-learn==1.9.1 numpy==2.4.6

cat > "$folder/main.py" <<'PYTHON'
import sys
import warnings

import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import LocalOutlierFactor

ROWS, FEATURES, COPIES = 1000, 16, 50
generator = np.random.default_rng(0)
normal = generator.normal(size=(ROWS, FEATURES))
copies = np.repeat(generator.normal(size=(1, FEATURES)), COPIES, axis=0)
table = np.concatenate([normal, copies])
is_copy = np.arange(len(table)) >= ROWS


def fit(rows, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        factors = LocalOutlierFactor(**options).fit(rows).negative_outlier_factor_
    return factors, len(caught)


alone, _ = fit(normal, n_neighbors=20)
print(f'without copies:               normal rows {alone.min():.2f} to {alone.max():.2f}')
as_described = alone.min() > -3
for novelty in (False, True):
    factors, n_warnings = fit(table, n_neighbors=20, novelty=novelty)
    extreme = int((factors[~is_copy] < -1e6).sum())
    auroc = roc_auc_score(is_copy, -factors)
    print(f'20 neighbors, novelty={novelty!s:<5}:  copies {factors[is_copy].min():.2f} to {factors[is_copy].max():.2f}, '
          f'{extreme} normal rows below -1e6 (lowest {factors.min():.1e}), AUROC of copies {auroc:.2f}, '
          f'{n_warnings} warning(s)')
    as_described &= bool((factors[is_copy] == -1).all()) and extreme > 0 and n_warnings == (0 if novelty else 1)
factors, n_warnings = fit(table, n_neighbors=60)
print(f'60 neighbors, novelty=False:  copies {factors[is_copy].min():.2f}, '
      f'normal rows {factors[~is_copy].min():.2f} to {factors[~is_copy].max():.2f}, {n_warnings} warning(s)')
as_described &= factors.min() > -3
sys.exit(0 if as_described else 1)
PYTHON
"$folder/venv/bin/python" "$folder/main.py"
