"""Runs the model over the pairs for their similarities or their embeddings, in memory or on disk."""

from __future__ import annotations

import hashlib
import json
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader
from tqdm import tqdm

from callbacks.shuffled_pairs import ShuffledPairs
from datamodules.files.atomic import write_atomically, write_text

Dtype = Literal['float16', 'float32']
CHUNK_ROWS = 32_768  # rows between two records of progress; a killed sweep loses at most this many
EMBEDDED = ('image', 'text')  # outputs of `predict_step` that are stored, one file each
PROGRESS = 'progress.json'


def sweep(
    trainer: L.Trainer,
    module: L.LightningModule,
    loader: DataLoader[Any],
    rows: int,
    shuffled: ShuffledPairs | None = None,
) -> Tensor:
    """Measures the cosine similarity of every pair that a loader yields, by the module's ``predict_step``.

    The model is in evaluation mode meanwhile, and every random generator is restored afterwards, so that training
    continues as if nothing had happened. The precision is that of training; the similarity itself is float32.

    Args:
        trainer: The trainer. The loader of each process yields that process's share of the pairs.
        module: Its module, not the DDP wrapper: the forward pass needs nothing from the other processes.
        loader: Batches that ``predict_step`` turns into ``row`` (B,) and ``similarity`` (B,).
        rows: Number N of rows of the table.
        shuffled: Collects embeddings on the way, to compare pictures with the captions of other pairs.

    Returns:
        Similarity in [-1, 1] of each row, float32 (N,), on the CPU, the same on all processes; NaN for rows that no
        loader yields.
    """
    sums = RowSums(rows, module.device)
    with measuring(trainer, module):
        for output in _predict(trainer, module, loader):
            sums.add(output['row'], output['similarity'])
            if shuffled is not None:
                shuffled.add(output)
    return sums.mean(trainer)


class Embeddings(NamedTuple):
    """Embeddings of every pair, as arrays of shape (N, D); NaN in rows that were not swept.

    Attributes:
        image: Image embeddings.
        text: Caption embeddings.
    """

    image: np.ndarray
    text: np.ndarray


def embed_pairs(
    trainer: L.Trainer, module: L.LightningModule, loader: DataLoader[Any], rows: int, title: str = 'embed'
) -> Embeddings:
    """Embeds the pairs that a loader yields, in memory; meant for thousands of pairs, such as the held-out ones.

    The model and the random generators are treated as in :func:`sweep`. Each pair should occur in one batch only.

        embed_pairs(trainer, module, truth.heldout_dataloader(), len(truth.heldout))

    Args:
        trainer: The trainer. The loader of each process yields that process's share of the pairs.
        module: Its module. Its ``predict_step`` returns ``row`` (B,), ``image`` (B, D) and ``text`` (B, D).
        loader: Batches of pairs.
        rows: Number N of rows of their table.
        title: Name of the progress bar.

    Returns:
        The embeddings in float32, the same on all processes.
    """
    with measuring(trainer, module):
        outputs = list(_predict(trainer, module, loader, title))
    width = trainer.strategy.broadcast(outputs[0]['image'].shape[1] if outputs else 0)  # rank 0 always has pairs
    image, text = torch.zeros(len(EMBEDDED), rows, width, device=module.device)
    is_missing = torch.ones(rows, device=module.device)
    for output in outputs:
        image[output['row']], text[output['row']] = output['image'].float(), output['text'].float()
        is_missing[output['row']] = 0
    image, text, ranks_without = (trainer.strategy.reduce(x, reduce_op='sum') for x in (image, text, is_missing))
    is_unswept = (ranks_without == trainer.world_size)[:, None]
    return Embeddings(*(x.masked_fill(is_unswept, float('nan')).cpu().numpy() for x in (image, text)))


def sweep_embeddings(
    trainer: L.Trainer,
    module: L.LightningModule,
    loader: Callable[[NDArray[np.int64]], DataLoader[Any]],
    rows: NDArray[np.int64],
    pairs: int,
    folder: str | Path,
    identity: str,
    dtype: Dtype = 'float16',
    chunk_rows: int = CHUNK_ROWS,
) -> Embeddings:
    """Writes the embeddings of pairs to ``image.npy`` and ``text.npy``, and resumes where it was interrupted.

    The rows are swept in chunks. Once all processes have written a chunk, it is recorded in ``progress.json`` with its
    checksums; a later call with the same arguments skips the chunks recorded there, up to the first that has been
    damaged. The files are then the same, byte for byte, as those of an uninterrupted call on as many processes. A call
    with another identity or other arguments starts over.

    The model and the random generators are treated as in :func:`sweep`.

        sweep_embeddings(trainer, module, lambda rows: data.sweep_dataloader(rows=rows), rows, len(data), folder, id)

    Args:
        trainer: The trainer. All processes must see the same folder.
        module: Its module. Its ``predict_step`` returns ``row`` (B,), ``image`` (B, D) and ``text`` (B, D).
        loader: Makes a loader of the given rows, which are ascending; on several processes, a loader of this process's
            share of them.
        rows: Rows to sweep, ascending, int64.
        pairs: Number N of rows of the table.
        folder: Folder for the files; created if it is missing.
        identity: Identifies the data and the weights, such as the table's fingerprint with a digest of the weights.
        dtype: Type of the stored numbers. ``float16`` halves the space; a unit-norm embedding keeps three digits.
        chunk_rows: Number of rows between two records of progress.

    Returns:
        The embeddings of all pairs, as read-only memory maps.

    Raises:
        UsageError: If the folder cannot be written, or its disk has too little space.
    """
    chunks = [rows[start : start + chunk_rows] for start in range(0, len(rows), chunk_rows)]
    store = _EmbeddingStore(trainer, Path(folder), _plan(identity, rows, pairs, dtype, chunk_rows), chunks)
    with measuring(trainer, module):
        for number in range(store.finished, len(chunks)):
            outputs = _predict(trainer, module, loader(chunks[number]), f'sweep {number + 1}/{len(chunks)}')
            store.write([_to_numpy(output, dtype) for output in outputs])
    return store.read()


def _to_numpy(output: Mapping[str, Tensor], dtype: Dtype) -> dict[str, np.ndarray]:
    embeddings = {name: output[name].float().cpu().numpy().astype(dtype) for name in EMBEDDED}
    return {'row': output['row'].cpu().numpy(), **embeddings}


def _plan(identity: str, rows: NDArray[np.int64], pairs: int, dtype: Dtype, chunk_rows: int) -> dict[str, Any]:
    """What must be equal for one sweep to resume another."""
    digest = hashlib.sha256(np.ascontiguousarray(rows, '<i8').tobytes()).hexdigest()
    return {'version': 2, 'identity': identity, 'rows': digest, 'pairs': pairs, 'dtype': dtype, 'chunk': chunk_rows}


class _EmbeddingStore:
    """The files of a sweep of embeddings. Rank 0 creates them, and each rank writes its own rows.

    Args:
        trainer: The trainer, whose processes write together.
        folder: Folder of the files.
        plan: The plan of the sweep; files of a different plan are replaced.
        chunks: Rows of each chunk.

    Attributes:
        finished: Number of chunks that are complete.
    """

    def __init__(
        self, trainer: L.Trainer, folder: Path, plan: dict[str, Any], chunks: Sequence[NDArray[np.int64]]
    ) -> None:
        self.trainer, self.folder, self.plan, self.chunks = trainer, folder, plan, chunks
        self.checksums = self._read_checksums() if trainer.is_global_zero else []  # of finished chunks
        self.finished = int(trainer.strategy.broadcast(len(self.checksums)))

    def write(self, outputs: list[dict[str, np.ndarray]]) -> None:
        """Writes this rank's part of the next chunk, and records the chunk once all ranks have written theirs."""
        if not self.finished and self.trainer.is_global_zero:
            self._create({name: outputs[0][name].shape[1] for name in EMBEDDED})
        self.trainer.strategy.barrier('files exist')
        for name in EMBEDDED:
            embeddings = np.load(self._file(name), mmap_mode='r+')
            for output in outputs:
                embeddings[output['row']] = output[name]
            embeddings.flush()
        self.trainer.strategy.barrier('chunk is written')
        if self.trainer.is_global_zero:
            self.checksums.append(self._measure_checksums(self.chunks[self.finished]))
            write_text(self.folder / PROGRESS, json.dumps({**self.plan, 'finished': self.checksums}))
        self.finished += 1

    def read(self) -> Embeddings:
        self.trainer.strategy.barrier('chunk is recorded')
        return Embeddings(*(np.load(self._file(name), mmap_mode='r') for name in EMBEDDED))

    def _file(self, name: str) -> Path:
        return self.folder / f'{name}.npy'

    def _create(self, widths: Mapping[str, int]) -> None:
        (self.folder / PROGRESS).unlink(missing_ok=True)
        for name, width in widths.items():
            with write_atomically(self._file(name)) as temporary:  # a reader that has the old file open keeps it
                fill_with_nan(temporary, (self.plan['pairs'], width), np.dtype(self.plan['dtype']))

    def _read_checksums(self) -> list[list[int]]:
        """Checksums of the chunks that an earlier sweep with the same plan has finished and that are undamaged."""
        try:
            recorded = json.loads((self.folder / PROGRESS).read_text())
            finished = recorded.pop('finished')
            if recorded != self.plan:
                return []
            kept = takewhile(
                lambda chunk: self._measure_checksums(chunk[0]) == chunk[1], zip(self.chunks, finished, strict=False)
            )
            return [checksums for _, checksums in kept]
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            EOFError,
        ):  # missing, cut or something else
            return []

    def _measure_checksums(self, rows: NDArray[np.int64]) -> list[int]:
        """CRC-32 of some rows of each file."""
        return [zlib.crc32(np.load(self._file(name), mmap_mode='r')[rows]) for name in EMBEDDED]


def fill_with_nan(temporary: Path, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
    """Writes an ``.npy``, and not through a memory map, which would end the process with SIGBUS on a full disk."""
    row = np.full(shape[1], np.nan, dtype).tobytes()
    with temporary.open('xb') as file:
        header = {'descr': np.lib.format.dtype_to_descr(dtype), 'fortran_order': False, 'shape': shape}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, shape[0], CHUNK_ROWS):
            file.write(row * min(CHUNK_ROWS, shape[0] - start))


class RowSums:
    """Sum and count of the values seen so far for each row, on the device.

    Args:
        rows: Number N of rows.
        device: Device that the values come from.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self.sums = torch.zeros(2, rows, device=device)

    def add(self, row: Tensor, value: Tensor) -> None:
        """Adds ``value`` (B,) to the rows ``row`` (B,), int64."""
        value = value.detach().float()
        self.sums.index_add_(1, row, torch.stack([value, torch.ones_like(value)]))

    def mean(self, trainer: L.Trainer) -> Tensor:
        """Mean over all processes, float32 (N,) on the CPU; NaN for rows that were never seen."""
        sums: Tensor = trainer.strategy.reduce(self.sums, reduce_op='sum')
        total, count = sums.cpu()
        mean: Tensor = total / count
        return mean


@contextmanager
def measuring(trainer: L.Trainer, module: L.LightningModule) -> Iterator[None]:
    """Evaluation mode without gradients, in the training precision; restores modes and random states afterwards."""
    agree_on_batch_norm(trainer, module)
    # no_grad, not inference_mode: tensors made here (pools, prototypes) may enter a training step later
    with torch.no_grad(), isolate_rng(), evaluating(module), trainer.strategy.precision_plugin.forward_context():
        yield


def _predict(
    trainer: L.Trainer, module: L.LightningModule, loader: DataLoader[Any], title: str = 'sweep'
) -> Iterator[Mapping[str, Tensor]]:
    """Yields the output of ``predict_step`` for each batch."""
    for index, batch in enumerate(_with_progress(trainer, loader, title)):
        yield module.predict_step(trainer.strategy.batch_to_device(batch), index)


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Sets evaluation mode; afterwards restores each submodule's own mode, as frozen ones may differ from the rest."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def agree_on_batch_norm(trainer: L.Trainer, module: torch.nn.Module) -> None:
    """Gives all ranks the batch norm statistics of rank 0.

    DDP synchronizes them only at the start of a training step, so after the last step of an epoch each rank would
    embed the same picture differently.
    """
    if trainer.world_size == 1:
        return
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            for buffer in part.buffers(recurse=False):
                torch.distributed.broadcast(buffer, 0)


def _with_progress(trainer: L.Trainer, loader: DataLoader[Any], title: str) -> Iterator[Any]:
    """Iterates over the batches, with a progress bar if Lightning shows one and the output is a terminal."""
    is_shown = trainer.is_global_zero and trainer.progress_bar_callback is not None
    disable = None if is_shown else True  # None: tqdm shows the bar on terminals only
    return iter(tqdm(loader, title, leave=False, position=1, dynamic_ncols=True, file=sys.stdout, disable=disable))
