"""Time of MEM's search for words, over the same search that evaluates each candidate with both towers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.text.allowed_tokens import allowed_tokens
from datamodules.text.tokenizer import WordTokenizer
from experiments.bench.measure import Result, best_of
from lightning_modules.clip import embed
from lightning_modules.losses import info_nce
from lightning_modules.noise_steps import LEVELS
from lightning_modules.normalization import from_pixels
from lightning_modules.unlearnable import MEM, Batch, Captions

MODEL, PAIRS, REPEATS = 'small64.json', 64, 1
CAPTION = ('a', 'man', 'in', 'a', 'red', 'shirt', 'is', 'climbing', 'a', 'wall', 'of', 'rock')


def measure() -> Iterator[Result]:
    """Measures the search of three words with 16 candidates each, for one batch."""
    module = make_module()
    batch = make_batch(module.image_size, module.context_length)
    trigger = torch.full((PAIRS, 3), 518)
    searches = {
        'ours': partial(search, module, batch, trigger),
        'plain': partial(search_plainly, module, batch, trigger),
    }
    times = best_of(searches, REPEATS)
    same = float((searches['ours']() == searches['plain']()).float().mean())
    what = f'words of {PAIRS} pairs, {MODEL.removesuffix(".json")}'
    yield Result(f'{what}, faster than both towers for each candidate', times['plain'] / times['ours'], 'x', 4, True)
    yield Result(f'share of the {what} that are the same', same, '', 0.95, True)


def make_module() -> MEM:
    """MEM on a process of its own, without data."""
    torch.manual_seed(0)
    module: Any = MEM(architecture=MODEL).eval()
    size = module.image_size
    store = SimpleNamespace(noise=lambda units: np.zeros((len(units), 3, size, size), np.int8))
    module.protection = SimpleNamespace(allowed=allowed_tokens(), unit=np.arange(PAIRS), store=store)
    module.trainer = SimpleNamespace(world_size=1, log_every_n_steps=0)
    return module


def make_batch(size: int, context_length: int) -> Batch:
    """Random pictures, and captions of different lengths."""
    generator = torch.Generator().manual_seed(0)
    tokenize = WordTokenizer(context_length)
    lengths = 5 + np.arange(PAIRS) % 14
    tokens = np.stack([tokenize(' '.join(np.roll(2 * CAPTION, n)[:n])) for n in lengths])
    pictures = torch.randint(0, 256, (PAIRS, 3, size, size), generator=generator, dtype=torch.uint8)
    captions = Captions(torch.from_numpy(tokens), torch.ones(PAIRS, dtype=torch.int64))
    return Batch(0, np.arange(PAIRS), slice(0, PAIRS), pictures, captions)


def search(module: MEM, batch: Batch, trigger: Tensor) -> Tensor:
    """The search of :class:`MEM`."""
    return module._search_triggers(batch, trigger)


def search_plainly(module: MEM, batch: Batch, trigger: Tensor) -> Tensor:
    """The same with a pass of both towers for each candidate."""
    pixels = from_pixels(batch.pictures.float() / LEVELS)

    @torch.no_grad()
    def loss(tried: Tensor) -> float:
        text = embed(module.towers.encode_text, batch.captions.with_trigger(tried))
        return float(info_nce(module.encode_image(pixels), text, module.logit_scale))

    with torch.no_grad():
        image = module.encode_image(pixels)
    candidates = module._candidates(batch, trigger, image)
    best, lowest = trigger, loss(trigger)
    for slot in range(trigger.shape[1]):
        base = best
        for rank in range(candidates.shape[2]):
            tried = base.clone()
            tried[:, slot] = candidates[:, slot, rank]
            if (measured := loss(tried)) < lowest:
                best, lowest = tried, measured
    return best
