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

CLASSES = 1000
TEMPLATES = {'small64.json': 80, 'RN50': 1}  # by model; all of them would take RN50 most of an hour on one core


def measure() -> Iterator[Result]:
    """Builds a classifier with each model, then again in the same process, and as another process would."""
    for name, templates in TEMPLATES.items():
        yield from measure_model(name, templates)


@torch.no_grad()
def measure_model(name: str, templates: int) -> Iterator[Result]:
    """The same for one model and its number of prompts of each class."""
    model = CLIP(name).eval()
    tokenizer = WordTokenizer(model.context_length)
    tokens = prompt_tokens(imagenet_classes()[:CLASSES], imagenet_templates()[:templates], tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        data, classifiers = ToyPairs(cache_dir=folder), Classifiers()
        first = seconds(lambda: build(classifiers, model, tokens, data))
        again = seconds(lambda: build(classifiers, model, tokens, data))
        elsewhere = seconds(lambda: build(Classifiers(), model, tokens, data))
    what = f'classifier of {len(tokens):,} classes x {templates} prompts with the text tower of {name}'
    yield Result(f'{what}, of one core', first, 's')
    yield Result('the same again, over the first time', again / first, target=0.05)
    yield Result('the same in another process', elsewhere / first, target=0.05)


def build(classifiers: Classifiers, model: CLIP, tokens: Tensor, data: ToyPairs) -> None:
    """Builds the classifier as an evaluation does."""
    classifiers.build([tokens], model, identify_text_tower(model.towers), data.kept_array)
