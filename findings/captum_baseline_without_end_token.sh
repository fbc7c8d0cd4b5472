#!/usr/bin/env bash
# captum 0.9.0: integrated gradients of open_clip's text encoder miss the sum they should have, at any number of steps.
#
# Versions: captum 0.9.0, open_clip_torch 3.3.0, torch 2.14.1, torchvision 0.29.1, Python 3.11, CPU.
#
# Expected: what the tokens of a caption add sums up to the cosine of the caption less that of the baseline
# (completeness: Sundararajan et al., 2017). What is left over, captum's convergence delta, goes to 0 with more steps.
#
# What happens: it stays the same. captum replaces the output of the embedding layer, on the path from the baseline to the
# caption, but each forward pass still gets the caption's ids. open_clip reads a caption out at its largest id, the end
# token, so the whole path is read out there. The baseline's own value is computed from its ids. Those of the default
# baseline are all 0, which means "!", and the largest is the first: the model reads out at place 0, another function.
# The sum belongs to the value at the start of the path, and delta is the difference of the two readings. A baseline
# with 0 for the words alone, which keeps start and end of the caption, is read out at the same place, and adds up.
#
# Output seen (a random two-layer tower, caption "a red dog on a boat"):
#   baseline             steps  sum of tokens  cosine - baseline's  delta
#   default                 50       -0.14403             -0.14942   0.00539
#   default                500       -0.14403             -0.14942   0.00539
#   words only              50       -0.02220             -0.02220  -0.00000
#   words only             500       -0.02220             -0.02220  -0.00000
#   default, from the start of the path: -0.14403
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet captum==0.9.0 torch==2.14.1 torchvision==0.29.1 open_clip_torch==3.3.0

cat > "$folder/main.py" <<'PYTHON'
import sys
import warnings

import torch
from captum.attr import LayerIntegratedGradients
from open_clip import CLIP, tokenize
from torch.nn.functional import normalize

warnings.simplefilter('ignore')
torch.manual_seed(0)
vision = {'layers': 1, 'width': 64, 'head_width': 32, 'patch_size': 16, 'image_size': 16}
clip = CLIP(32, vision, {'layers': 2, 'width': 64, 'heads': 2}).eval()
torch.nn.init.normal_(clip.token_embedding.weight, std=0.5)
image = normalize(torch.randn(1, 32), dim=-1)


def cosine(tokens):
    return (clip.encode_text(tokens, normalize=True) * image).sum(-1)


def value_at_start_of_path(caption):
    """The caption's ids with the embedding of "!" at each place, as captum's path begins."""
    with clip.token_embedding.register_forward_hook(lambda layer, ids, output: layer.weight[0].expand_as(output)):
        return cosine(caption)


caption = tokenize('a red dog on a boat')
end = caption.argmax(1)
words_only = caption.clone()
words_only[:, 1:end] = 0
explain = LayerIntegratedGradients(cosine, clip.token_embedding)
values = {'default': torch.zeros_like(caption), 'words only': words_only}
totals, gaps = {}, {}
print("baseline             steps  sum of tokens  cosine - baseline's  delta")
for name, steps in [('default', 50), ('default', 500), ('words only', 50), ('words only', 500)]:
    baseline = None if name == 'default' else words_only
    options = {'n_steps': steps, 'internal_batch_size': 50, 'return_convergence_delta': True}
    parts, delta = explain.attribute(caption, baseline, **options)
    total, due = parts.sum().item(), (cosine(caption) - cosine(values[name])).item()
    totals[name, steps], gaps[name, steps] = total, abs((total - due) / due)
    print(f'{name:<15} {steps:10}  {total:13.5f}  {due:19.5f}  {delta.item():8.5f}')
start = (cosine(caption) - value_at_start_of_path(caption)).item()
print(f'default, from the start of the path: {start:.5f}')
as_described = gaps['default', 500] > 0.01 and gaps['words only', 500] < 1e-3 and abs(totals['default', 500] - start) < 1e-3
sys.exit(0 if as_described and abs(totals['default', 50] - totals['default', 500]) < 1e-3 else 1)
PYTHON
"$folder/venv/bin/python" "$folder/main.py"
