"""A model, a data set and a trainer that are so small that a run takes a second."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import lightning as L
import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from datamodules.pairs import PairsDataModule
from datamodules.pictures.images import UnreadableImage
from datamodules.rows.table import PairTable

NAMES = ('cat', 'dog', 'boat', 'truck', 'bird', 'horse', 'frog', 'lorry', 'plane', 'deer')
SENTENCES = ('a {}', 'the {}', 'a picture of a {}', 'look , a {} !')
IMAGE_SIZE, CONTEXT_LENGTH = 8, 8
Data = TypeVar('Data', bound=PairsDataModule)


def tiny_architecture(
    folder: Path, name: str = 'tiny', width: int = 8, layers: int = 1, image_size: int = IMAGE_SIZE
) -> str:
    """Writes a vision transformer of a few weights in open_clip's format and returns the path of the file.

    Args:
        folder: Folder of the file.
        name: Stem of the file. Names are global in open_clip, so different models of a test need different names.
        width: Width of both towers and of the embeddings, a multiple of 4.
        layers: Layers of each tower.
        image_size: Side of an image in pixels, a multiple of 4.
    """
    vision = {'image_size': image_size, 'patch_size': 4, 'layers': layers, 'width': width, 'head_width': 4}
    text = {'context_length': CONTEXT_LENGTH, 'vocab_size': 49408, 'width': width, 'heads': 2, 'layers': layers}
    return write_json(folder / f'{name}.json', {'embed_dim': width, 'vision_cfg': vision, 'text_cfg': text})


def write_json(path: Path, content: object) -> str:
    """Replaces a file atomically, because another rank may be reading the old one."""
    unfinished = path.with_name(f'{path.name}.{os.getpid()}')
    unfinished.write_text(json.dumps(content))
    return str(unfinished.replace(path))


class TinyImages:
    """Pictures in memory, of different sizes; a reference is ``<stream>:<row>``.

    Attributes:
        opened: References that this process has opened, in order.
        broken: Rows that cannot be decoded.
    """

    def __init__(self, pictures: Sequence[np.ndarray], broken: Sequence[int] = ()) -> None:
        self.pictures, self.broken = pictures, set(broken)
        self.opened: list[str] = []

    def identity(self, references: pa.Array | pa.ChunkedArray) -> bytes:
        content = [self.pictures[int(name.rpartition(':')[2])].tobytes() for name in references.to_pylist()]
        return hashlib.sha256(b''.join(content) + repr(sorted(self.broken)).encode()).digest()

    def __call__(self, reference: str, min_side: int | None = None) -> Image.Image:
        self.opened.append(reference)
        row = int(reference.rpartition(':')[2])
        if row in self.broken:
            raise UnreadableImage('truncated')
        return Image.fromarray(self.pictures[row])


def tiny_table(rows: int, classes: int, seed: int, broken: Sequence[int] = (), mismatched: int = 0) -> PairTable:
    """Draws pictures of 8 to 16 pixels that show the pattern of their class under noise, with captions naming it.

    Row r has class r modulo ``classes``. The captions of the last ``mismatched`` rows name another class.
    """
    draw = np.random.default_rng(seed)
    patterns = np.random.default_rng(99).integers(0, 256, (classes, 2, 2, 3))
    label = np.arange(rows) % classes
    named = np.where(np.arange(rows) < rows - mismatched, label, (label + draw.integers(1, classes, rows)) % classes)
    pictures = []
    for kind in label:
        height, width = draw.integers(8, 17, 2)
        pattern = patterns[kind][np.arange(height) * 2 // height][:, np.arange(width) * 2 // width]
        pictures.append((0.7 * pattern + 0.3 * draw.integers(0, 256, (height, width, 3))).astype(np.uint8))
    captions = [SENTENCES[draw.integers(len(SENTENCES))].format(NAMES[kind]) for kind in named]
    references = [f'{seed}:{row}' for row in range(rows)]
    return PairTable(references, captions, label, NAMES[:classes], opener=TinyImages(pictures, broken))


class TinyPairs(PairsDataModule):
    """Pairs drawn in memory.

    Args:
        rows: Training pairs.
        heldout_rows: Held-out pairs, 0 for none.
        classes: Number of classes, at most ten.
        picture_seed: Seed of pictures and captions.
        broken: Training rows whose picture cannot be decoded.
        broken_heldout: Held-out rows whose picture cannot be decoded.
        mismatched: Number of training rows at the end whose caption does not name the class of the picture.
        **kwargs: Arguments of :class:`PairsDataModule`; by default batches have 8 pairs, and there are two prompts.
    """

    def __init__(
        self,
        rows: int = 32,
        heldout_rows: int = 12,
        classes: int = 4,
        picture_seed: int = 0,
        broken: Sequence[int] = (),
        broken_heldout: Sequence[int] = (),
        mismatched: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{'batch_size': 8, 'eval_batch_size': 10, 'templates': ['a {}', 'the {}'], **kwargs})
        self.rows, self.heldout_rows, self.kinds, self.picture_seed = rows, heldout_rows, classes, picture_seed
        self.broken, self.broken_heldout, self.mismatched = broken, broken_heldout, mismatched

    def load_table(self) -> PairTable:
        return tiny_table(self.rows, self.kinds, 2 * self.picture_seed, self.broken, self.mismatched)

    def load_heldout(self) -> PairTable | None:
        if not self.heldout_rows:
            return None
        return tiny_table(self.heldout_rows, self.kinds, 2 * self.picture_seed + 1, self.broken_heldout)


def set_up(data: Data) -> Data:
    """Runs ``prepare_data`` and ``setup`` for the tiny model, without a trainer."""
    data.image_size = data.image_size or IMAGE_SIZE
    data.context_length = data.context_length or CONTEXT_LENGTH
    data.prepare_data()
    data.setup('fit')
    return data


def attach(
    data: PairsDataModule, sides: Mapping[str, int] | None = None, epoch: int = 0, rank: int = 0, world: int = 1
) -> None:
    """Gives a datamodule the parts of a trainer that its loaders need.

    Args:
        data: The datamodule.
        sides: Sides and views as returned by ``CLIP.sides``; ``None`` means safe pairs with one view.
        epoch: Epoch, counted from 0.
        rank: This process.
        world: Number of processes.
    """
    module = SimpleNamespace(
        sides=lambda _: dict(sides or {'cross_modal': 1}), image_size=IMAGE_SIZE, context_length=CONTEXT_LENGTH
    )
    progress = SimpleNamespace(current=SimpleNamespace(processed=epoch))
    data.trainer = SimpleNamespace(
        global_rank=rank,
        world_size=world,
        max_epochs=epoch + 1,
        reload_dataloaders_every_n_epochs=1,
        limit_train_batches=1.0,
        limit_val_batches=1.0,
        val_check_interval=1.0,
        check_val_every_n_epoch=1,
        lightning_module=module,
        fit_loop=SimpleNamespace(epoch_progress=progress),
        strategy=SimpleNamespace(root_device=torch.device('cpu')),
        state=SimpleNamespace(fn='fit'),
    )


def trainer(**kwargs: Any) -> L.Trainer:
    """Creates a trainer with the relevant settings of ``experiments/defaults.yaml`` that writes nothing."""
    settings = {
        'accelerator': 'cpu',
        'devices': 1,
        'max_epochs': 2,
        'use_distributed_sampler': False,
        'reload_dataloaders_every_n_epochs': 1,
        'num_sanity_val_steps': 0,
        'log_every_n_steps': 1,
        'logger': False,
        'enable_checkpointing': False,
        'enable_progress_bar': False,
        'enable_model_summary': False,
    }
    return L.Trainer(**{**settings, **kwargs})


def unit_rows(rows: int, dim: int, seed: int) -> Tensor:
    """Draws random rows of norm 1, float64 (rows, dim)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, dim, generator=generator, dtype=torch.float64), dim=1)
