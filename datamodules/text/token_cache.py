"""Tokens of all captions, computed once and memory-mapped from then on, and tokens of prompts."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from datamodules.files.array_cache import stored_array
from datamodules.rows.row_sets import blocks
from datamodules.rows.table import PairTable
from datamodules.text.prompts import fill_templates
from datamodules.text.tokenizer import ModelTokenizer, WordTokenizer

AnyTokenizer = WordTokenizer | ModelTokenizer

log = logging.getLogger(__name__)

_VERSION = 1  # to be raised when captions are cut or cleaned differently
_PROBES = (
    'Two dogs',
    "isn't it 12",
    'Caf\u00e9 \u201cna\u00efve\u201d',
    'a &amp; b',
    '\u6f22\u5b57',
    '\U0001f408 ok',
    '<i>#5</i>',
)
_CAPTIONS_AT_ONCE = 8192
_MIN_ROWS_FOR_PROGRESS = 200_000  # fewer are done before anybody could read a progress bar


def stored_tokens(table: PairTable, tokenizer: AnyTokenizer, folder: Path) -> np.ndarray:
    """Tokens of the original captions, (N, T): uint16, which can hold every id of CLIP's vocabulary, or uint32.

    Args:
        table: The pairs.
        tokenizer: Turns a caption into T tokens.
        folder: Folder of the caches.
    """

    def fill(tokens: np.ndarray) -> None:
        starts = range(0, len(table), _CAPTIONS_AT_ONCE)
        for start in tqdm(starts, 'tokens', leave=False, disable=len(table) < _MIN_ROWS_FOR_PROGRESS):
            rows = np.arange(start, min(start + _CAPTIONS_AT_ONCE, len(table)))
            tokens[rows] = [tokenizer(caption) for caption in table.captions(rows)]

    length = tokenizer.context_length
    kind = np.uint32 if tokenizer.identity else np.uint16
    path = folder / f'tokens-{table.fingerprint}-{length}-{identify_tokenizer(tokenizer)}.npy'
    return stored_array(path, (len(table), length), kind, fill)


def identify_tokenizer(tokenizer: AnyTokenizer) -> str:
    """Digest of a tokenizer's version and of its tokens for a few captions (8 hexadecimal digits).

    The captions differ between tokenizers, and between releases of one that clean text in another way.
    """
    tokens = np.stack([tokenizer(caption) for caption in _PROBES])
    return hashlib.sha256(f'{_VERSION}{tokenizer.identity}'.encode() + tokens.astype('<i8').tobytes()).hexdigest()[:8]


def warn_of_cut_captions(table: PairTable, tokens: np.ndarray, tokenizer: AnyTokenizer) -> None:
    """Logs how many captions are longer than the model's context, even if their tokens come from the cache."""
    truncated_before = tokenizer.truncated
    for block in blocks(len(table)):
        full = block.start + np.flatnonzero(tokens[block, -1])  # which may also be a caption that just fits
        for caption in table.captions(full):
            tokenizer(caption)
    if cut := tokenizer.truncated - truncated_before:
        log.warning(
            '%d of %d captions have more than data.context_length=%d tokens and are cut there: '
            'shorten them, or choose a model.architecture with a longer context',
            cut, len(table), tokenizer.context_length,
        )  # fmt: skip


def prompt_tokens(classes: Sequence[str], templates: Sequence[str], tokenizer: AnyTokenizer) -> torch.Tensor:
    """Tokens of every class in every template, int64 (C, P, T).

    Args:
        classes: Names of the classes.
        templates: Prompts with one ``{}`` each.
        tokenizer: Turns a prompt into T tokens.
    """
    tokens = [[tokenizer(prompt) for prompt in fill_templates(name, templates)] for name in classes]
    return torch.from_numpy(np.array(tokens))
