#!/usr/bin/env bash
# ART 1.20.1 scores spectral signatures on features that are not centered.
#
# Versions: adversarial-robustness-toolbox 1.20.1, numpy 2.4.6, scikit-learn 1.9.1, Python 3.11
# (packaging 26.0 is needed at import and not declared).
#
# Expected: the outlier score of a row is the size of its *centered* features along the first singular vector of the
# centered matrix (Tran et al., 2018, algorithm 1). Adding one constant vector to all rows then changes no score.
#
# What happens: `SpectralSignatureDefense.spectral_signature_scores` takes the singular vector from the centered
# matrix but projects the features as they came. A common offset adds the same signed number to every projection, and
# the absolute value taken afterwards can turn the ranking over. Features after a ReLU, and embeddings of CLIP, which
# lie in a narrow cone, have such an offset. Centering the features before the call restores the paper's scores.
#
# The script plants 50 poisons among 1,000 rows of 64 features, shifted by 6 standard deviations along one axis, and
# adds an offset with the given length to all rows. AUROC of the poison, mean and worst of 20 seeds.
#
# Output seen:
#   length of offset    as given: mean, worst    centered first: mean, worst
#                  0             1.000, 1.000                   1.000, 0.999
#                 10             0.990, 0.915                   1.000, 0.999
#                 30             0.754, 0.000                   1.000, 0.999
#                100             0.550, 0.000                   1.000, 0.999
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet adversarial-robustness-toolbox==1.20.1 numpy==2.4.6 scikit-learn==1.9.1 \
    packaging==26.0

cat > "$folder/main.py" <<'PYTHON'
import sys

import numpy as np
from art.defences.detector.poison import SpectralSignatureDefense
from sklearn.metrics import roc_auc_score

ROWS, FEATURES, POISONS, SEEDS = 1000, 64, 50, 20
score = SpectralSignatureDefense.spectral_signature_scores
is_poison = np.arange(ROWS) < POISONS


def make_features(length, seed):
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(ROWS, FEATURES))
    features[is_poison, 0] += 6
    direction = generator.normal(size=FEATURES)
    return features + length * direction / np.linalg.norm(direction)


print('length of offset    as given: mean, worst    centered first: mean, worst')
results = {}
for length in (0, 10, 30, 100):
    given, centered = [], []
    for seed in range(SEEDS):
        features = make_features(length, seed)
        given.append(roc_auc_score(is_poison, score(features).ravel()))
        centered.append(roc_auc_score(is_poison, score(features - features.mean(axis=0)).ravel()))
    results[length] = (np.mean(given), min(given), np.mean(centered), min(centered))
    print('{:16d}    {:14.3f}, {:5.3f}    {:20.3f}, {:5.3f}'.format(length, *results[length]))
as_described = results[0][1] > 0.99 and results[100][0] < 0.8 and all(row[3] > 0.99 for row in results.values())
sys.exit(0 if as_described else 1)
PYTHON
"$folder/venv/bin/python" "$folder/main.py"
