"""Weights of TorchScript archives, the form of OpenAI's own files, read without running the code in them."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

NO_WEIGHTS = ('attn_mask', 'input_resolution', 'context_length', 'vocab_size')  # what else OpenAI's archives hold
_STORAGES = {
    'HalfStorage': torch.float16, 'FloatStorage': torch.float32, 'DoubleStorage': torch.float64,
    'BFloat16Storage': torch.bfloat16, 'LongStorage': torch.int64, 'IntStorage': torch.int32,
    'BoolStorage': torch.bool, 'ByteStorage': torch.uint8,
}  # fmt: skip


def is_torchscript(path: str | Path) -> bool:
    """Whether a file is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith('/constants.pkl') for name in archive.namelist())


def read_torchscript(path: str | Path) -> dict[str, Tensor]:
    """Reads the weights of a TorchScript archive by their names in the model.

    Of what the pickle in it names, only tensors are made, and nothing is run.

    Raises:
        pickle.UnpicklingError: If it names anything else.
    """
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith('/data.pkl') and name.count('/') == 1)
        model = _Reader(archive, name.removesuffix('.pkl')).load()
    return {name: tensor for name, tensor in _tensors(model, '') if name.rpartition('.')[2] not in NO_WEIGHTS}


class _Module:
    """Stands for any module of the archive; unpickling sets its attributes."""


def _tensors(module: _Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _Module):
            yield from _tensors(value, f'{prefix}{name}.')


class _Reader(pickle.Unpickler):
    """Unpickles modules and tensors alone.

    Args:
        archive: The archive.
        name: Name of its pickle without the suffix, which is the folder of the storages.
    """

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        super().__init__(io.BytesIO(archive.read(f'{name}.pkl')))
        self.archive, self.folder = archive, name

    def find_class(self, module: str, name: str) -> Any:
        if module.split('.')[0] == '__torch__':
            return _Module
        if module == 'torch' and name in _STORAGES:
            return _STORAGES[name]
        if module == 'torch.jit._pickle':  # marks the type of a list
            return _first
        allowed: dict[tuple[str, str], Any] = {
            ('torch._utils', '_rebuild_tensor_v2'): _view,
            ('collections', 'OrderedDict'): OrderedDict,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f'GLOBAL {module}.{name} is neither a module nor a tensor')
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, *_ = pid
        return torch.frombuffer(bytearray(self.archive.read(f'{self.folder}/{key}')), dtype=dtype)


def _first(value: Any, *_: Any) -> Any:
    return value


def _view(storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)
