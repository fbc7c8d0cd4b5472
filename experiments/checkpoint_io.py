"""Checkpoints that are either whole or not there."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from datamodules.files.atomic import remove_leftovers_in, write_atomically
from datamodules.usage_error import UsageError
from lightning_modules.weights import ARCHIVE, is_clipward, read_beginning, read_checkpoint

LAST = 'last.ckpt'
START_ANEW = 'no other in its folder is whole, so start anew'


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its final place and renames it there.

    Lightning writes into the system's temporary directory first; where that is another file system, the final move
    is a copy, and a job killed during it leaves a truncated ``last.ckpt`` in the place of the good one.

    Lightning also saves states of callbacks that it then does not read, such as numpy's numbers: they are refused when
    the first checkpoint is written.

    If a checkpoint is damaged nevertheless, by a full disk or a broken copy, loading it is refused, and the message
    names the newest whole one beside it. That one is not loaded by itself, since it may be of another epoch.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        if '://' in str(path):  # a remote store has no rename; fsspec's transaction is the best there is
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        remove_leftover_checkpoints(Path(path).parent)
        with write_atomically(path) as temporary, temporary.open('wb') as temporary_file:
            try:
                torch.save(checkpoint, temporary_file)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # a full disk, which torch reports as a wrong position
                    raise error.__context__ from None
                raise
            _refuse_what_cannot_be_resumed(temporary, checkpoint)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Reads a checkpoint; torch would take numbers that have changed on the disk for weights.

        Raises:
            UsageError: If the file is damaged, naming the newest whole one of its folder, or not one of Clipward.
        """
        if '://' not in str(path) and _is_damaged(Path(path)):
            way_out = _way_out(Path(path).parent)
            if way_out == START_ANEW:
                read_checkpoint(path, 'ckpt_path')  # tells what else it may be
            raise UsageError(f'ckpt_path={str(path)!r} is damaged: {way_out}.')
        if '://' in str(path) or kwargs.get('weights_only') is False:
            return super().load_checkpoint(path, *args, **kwargs)
        return read_checkpoint(path, 'ckpt_path')


def _refuse_what_cannot_be_resumed(path: Path, checkpoint: dict[str, Any]) -> None:
    try:
        torch.load(path, map_location='cpu', mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        states = checkpoint.get('callbacks', {})
        name = next((name for name, state in states.items() if not _is_plain(state)), 'the model or its optimizer')
        raise UsageError(
            f'The state of {name} cannot be resumed from: its state_dict must hold tensors, numbers, text, and lists '
            f'and dicts of them, nothing of numpy or other classes.'
        ) from error


def _is_plain(state: Any) -> bool:
    """Whether a state is read back without running what its classes say."""
    temporary = io.BytesIO()
    torch.save(state, temporary)
    temporary.seek(0)
    try:
        torch.load(temporary, weights_only=True)
    except pickle.UnpicklingError:
        return False
    return True


def is_whole(path: Path) -> bool:
    """Whether every part of a checkpoint matches its checksum; reads all of the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError):  # RuntimeError: flags that torch never sets
        return False


def _is_damaged(path: Path) -> bool:
    """Whether a file is empty, or begins as a checkpoint does but is not whole. Others never were checkpoints."""
    return path.is_file() and read_beginning(path)[: len(ARCHIVE)] in (b'', ARCHIVE) and not is_whole(path)


def peek(path: Path) -> dict[str, Any]:
    """Maps a checkpoint into memory instead of reading all of it.

    Raises:
        UsageError: If the file is missing or no checkpoint.
    """
    try:
        checkpoint = torch.load(path, map_location='cpu', mmap=True, weights_only=True)
        return {'epoch': checkpoint['epoch'], 'callbacks': checkpoint.get('callbacks', {})}
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, LookupError, TypeError) as error:
        raise UsageError(f'ckpt_path={str(path)!r} is no checkpoint of a run, or damaged.') from error


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints in a folder: ``last.ckpt``, then the others by their epochs, which their names hold."""
    return sorted(folder.glob('*.ckpt'), key=lambda path: (path.name == LAST, _numbers(path.stem)), reverse=True)


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r'\d+', name)]


def _way_out(folder: Path) -> str:
    whole = next((str(path) for path in newest_first(folder) if is_clipward(path) and is_whole(path)), None)
    return f'resume from {whole}' if whole else START_ANEW


def remove_leftover_checkpoints(folder: Path) -> None:
    """Deletes what killed processes were writing, also under names that are never written again."""
    remove_leftovers_in(folder)
