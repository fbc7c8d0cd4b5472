"""What it costs to build the zero-shot classifier of ImageNet again, with a text tower that has not changed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import torch
from torch import Tensor

from datamodules.text.prompts import imagenet_classes, imagenet_templates
from datamodules.text.token_cache import prompt_tokens
from datamodules.text.tokenizer import WordTokenizer
from datamodules.toy_pairs import ToyPairs
from experiments.bench.measure import Result, seconds
from lightning_modules.classifiers import Classifiers, identify_text_tower
from lightning_modules.clip import CLIP

MODEL, LARGE_MODEL = 'small64.json', 'RN50'
CLASSES, TEMPLATES = 1000, 80


@torch.no_grad()
def measure() -> Iterator[Result]:
    """Builds the classifier, then again in the same process and as another process would; hashes a larger tower."""
    model = CLIP(MODEL).eval()
    classes, templates = imagenet_classes()[:CLASSES], imagenet_templates()[:TEMPLATES]
    tokens = prompt_tokens(classes, templates, WordTokenizer(model.context_length))
    what = f'classifier of {len(classes):,} classes x {len(templates)} prompts'
    with tempfile.TemporaryDirectory() as folder:
        data, classifiers = ToyPairs(cache_dir=folder), Classifiers()
        first = seconds(lambda: build(classifiers, model, tokens, data))
        again = seconds(lambda: build(classifiers, model, tokens, data))
        elsewhere = seconds(lambda: build(Classifiers(), model, tokens, data))
    yield Result(f'{what} with the text tower of {MODEL}, of one core', first, 's')
    yield Result('the same again, over the first time', again / first, target=0.02)
    yield Result('the same in another process', elsewhere / first, target=0.02)
    large = CLIP(LARGE_MODEL).towers
    yield Result(f'hash of the text tower of {LARGE_MODEL}', seconds(lambda: identify_text_tower(large)), 's')


def build(classifiers: Classifiers, model: CLIP, tokens: Tensor, data: ToyPairs) -> None:
    """Builds the classifier as an evaluation does."""
    classifiers.build([tokens], model, identify_text_tower(model.towers), data.kept_array)
