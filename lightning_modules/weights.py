"""Weights from files: read without running code that they may hold, and refused in one sentence if they do not fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.usage_error import UsageError
from lightning_modules.checkpoint_version import check_version
from lightning_modules.torchscript import is_torchscript, read_torchscript

EARLIER_PAIRS = 'earlier_pairs'  # in a checkpoint: what its initial weights were trained on
PREFIX = 'towers.'  # of the weights that every model of this package has
LOGIT_SCALE = 'logit_scale'  # of every CLIP, so it tells what comes before the names of a model inside another
TRANSFORMERS = ('text_model.', 'vision_model.')  # the towers of transformers' CLIP
LFS_POINTER = b'version https://git-lfs'
ARCHIVE = b'PK'  # what torch.save writes begins so
PICKLE = b'\x80'  # what releases before torch 1.6 wrote begins so
NOT_OURS = 'is not a Clipward checkpoint: use model.pretrained for other weights.'


def read_checkpoint(path: str | Path, argument: str) -> dict[str, Any]:
    """Reads a checkpoint of Clipward onto the CPU.

    Args:
        path: The file.
        argument: The argument that named it, for the message.

    Raises:
        UsageError: If the file is missing, holds objects, is damaged, is not a Clipward checkpoint, or is one of a
            later release.
    """
    named = f'{argument}={str(path)!r}'
    checkpoint = _read(path, named)
    weights = checkpoint.get('state_dict') if isinstance(checkpoint, Mapping) else None
    names = list(weights) if isinstance(weights, Mapping) else []
    if not any(isinstance(name, str) and name.startswith(PREFIX) for name in names):
        raise UsageError(f'{named} {NOT_OURS}')
    check_version(checkpoint, named)
    return checkpoint


def _read(path: str | Path, named: str) -> Any:
    """Reads a file of tensors and plain values. Torch's own message would advise to lift this guard."""
    if not Path(path).is_file():
        is_folder = Path(path).is_dir()
        fault = 'is a folder: give a checkpoint in it' if is_folder else 'does not exist: give the path of a checkpoint'
        raise UsageError(f'{named} {fault}.')
    if Path(path).suffix == '.safetensors':  # some releases of torch read it, others take it for a damaged file
        raise UsageError(f'{named} {NOT_OURS}')
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # a damaged file can make any part of torch fail
        raise UsageError(f'{named} {_why_unreadable(error, path)}') from error


def _why_unreadable(error: Exception, path: str | Path) -> str:
    objects = re.search(r'GLOBAL ([\w.]+)', str(error))
    if objects:
        return f'holds objects ({objects[1]}) that could run code: give a file of tensors and plain values alone.'
    if 'TorchScript' in str(error):
        return 'is a TorchScript archive, which could run code: give a file of tensors alone.'
    beginning = read_beginning(path)
    if beginning.startswith(LFS_POINTER):
        return 'is a Git LFS pointer in the place of the file: fetch the file itself with git lfs pull.'
    if not beginning or beginning.startswith((ARCHIVE, PICKLE)) or Path(path).suffix == '.safetensors':
        return 'is damaged, or not a checkpoint: give another file.'
    return 'is not a checkpoint: give a file that torch.save has written.'


def read_beginning(path: str | Path) -> bytes:
    """The first bytes of a file, which tell of what kind it is."""
    with Path(path).open('rb') as file:
        return file.read(len(LFS_POINTER))


def load_weights(module: nn.Module, path: str, argument: str = 'model.init_from') -> dict[str, Any]:
    """Loads the towers from a checkpoint, and returns the whole of it.

    Raises:
        UsageError: If the file is not a checkpoint of this architecture, or one of a run that diverged.
    """
    checkpoint = read_checkpoint(path, argument)
    check_weights(module, checkpoint['state_dict'], argument)
    weights = {name: tensor for name, tensor in checkpoint['state_dict'].items() if name.startswith(PREFIX)}
    module.load_state_dict(weights, strict=False)
    return checkpoint


def trained_pairs(checkpoint: Mapping[str, Any]) -> list[Tensor]:
    """Sketches of the pairs that a checkpoint was trained on, also before its run; empty if nothing is known of them.

    The data of the run keep one in their state, which Lightning files under the name of their class.
    """
    states = [state for state in checkpoint.values() if isinstance(state, Mapping) and 'trained_pairs' in state]
    return [*checkpoint.get(EARLIER_PAIRS, []), *(state['trained_pairs'] for state in states)]


def load_start(module: nn.Module, towers: nn.Module, path: str, argument: str) -> dict[str, Any]:
    """Loads the weights that a run starts from: of a checkpoint of Clipward, or of open_clip or OpenAI.

    Args:
        module: The module that has the towers.
        towers: The towers.
        path: The file.
        argument: The argument that named it, for messages.

    Returns:
        The whole of a checkpoint of Clipward; nothing for other weights.

    Raises:
        UsageError: If the file does not hold weights of this architecture, or those of a run that diverged.
    """
    if not Path(path).is_file() or is_clipward(path):
        return load_weights(module, path, argument)
    load_pretrained(towers, path, argument)
    return {}


def is_clipward(path: str | Path) -> bool:
    """Whether a file is a checkpoint of Clipward; reads little of it."""
    try:
        checkpoint = torch.load(path, map_location='cpu', mmap=True, weights_only=True)
        return any(name.startswith(PREFIX) for name in checkpoint['state_dict'])
    except Exception:  # not ours; load_pretrained says what is wrong
        return False


def load_pretrained(towers: nn.Module, path: str, argument: str = 'model.pretrained') -> None:
    """Loads a file of open_clip's or OpenAI's weights; prefixes, as of torch.compile or Lightning, are removed.

    Raises:
        UsageError: If the file does not hold the weights of these towers, or those of a run that diverged.
    """
    named = f'{argument}={path!r}'
    try:
        if is_torchscript(path):
            towers.load_state_dict(read_torchscript(path))
        else:
            _load_open_clip(towers, path)
    except Exception as error:  # a damaged file can make any part of open_clip or torch fail
        raise UsageError(f'{named} {_why_not_pretrained(path)}') from error
    check_finite(towers.state_dict(), named)


def _load_open_clip(towers: nn.Module, path: str) -> None:
    from open_clip.factory import load_checkpoint, load_state_dict  # takes seconds

    try:
        load_checkpoint(towers, path)
    except (RuntimeError, LookupError):  # open_clip does not know the prefix
        weights = load_state_dict(path)
        prefixes = [name.removesuffix(LOGIT_SCALE) for name in weights if name.endswith(LOGIT_SCALE)]
        if len(prefixes) != 1 or not prefixes[0]:
            raise
        (prefix,) = prefixes
        inside = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        towers.load_state_dict(inside)


def _why_not_pretrained(path: str) -> str:
    from open_clip.factory import load_state_dict

    try:
        weights = read_torchscript(path) if is_torchscript(path) else load_state_dict(path)
        names = [name for name, tensor in weights.items() if isinstance(tensor, Tensor)]
    except Exception as error:
        return _why_unreadable(error, path)
    if not names:
        return 'holds no weights: give a file that open_clip, OpenAI or Clipward has saved from a model.'
    if any(name.startswith(TRANSFORMERS) for name in names):
        return (
            'holds weights under the names of transformers, which open_clip does not read: give '
            'open_clip_pytorch_model.bin of the same repository, or a tag of open_clip.'
        )
    return 'holds weights of another architecture: set model.architecture to the one that they belong to.'


def check_weights(module: nn.Module, weights: Mapping[str, Tensor], argument: str) -> None:
    """Refuses weights of another architecture, or of a run that has diverged."""
    check_architecture(module, weights, argument)
    check_finite(weights, argument)


def check_architecture(module: nn.Module, weights: Mapping[str, Tensor], argument: str) -> None:
    """Refuses weights of another architecture in one sentence; torch would print a page of keys."""
    expected, given = (
        {key: getattr(tensor, 'shape', None) for key, tensor in state.items() if key.startswith(PREFIX)}
        for state in (module.state_dict(), weights)
    )
    mismatched = sorted(key for key in expected | given if expected.get(key) != given.get(key))
    if mismatched:
        raise UsageError(
            f'{argument} holds weights of another architecture ({len(mismatched)} tensors differ, first '
            f'{mismatched[0]}): set model.architecture to the one that the checkpoint was trained with.'
        )


def check_method(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Refuses to resume the run of another method, which keeps other tensors beside the towers.

    Raises:
        UsageError: If some are missing, or too many.
    """
    differing = sorted(name for name in module.state_dict().keys() ^ weights.keys() if not name.startswith(PREFIX))
    if differing:
        raise UsageError(
            f'ckpt_path holds the run of another model than this {type(module).__name__} ({len(differing)} tensors '
            f'differ, first {differing[0]}): resume with the model and arguments of that run, or start from its '
            f'weights with model.init_from instead of ckpt_path.'
        )


def check_finite(weights: Mapping[str, Tensor], argument: str) -> None:
    """Refuses weights of a run that has diverged.

    Raises:
        UsageError: If some are not finite.
    """
    tensors = {name: tensor for name, tensor in weights.items() if isinstance(tensor, Tensor)}
    infinite = sorted(name for name, tensor in tensors.items() if not tensor.isfinite().all())
    if infinite:
        raise UsageError(
            f'{argument} holds weights that are not finite numbers ({len(infinite)} tensors, first {infinite[0]}): its '
            f'training has diverged, so give an earlier checkpoint, or one of a run with a lower model.lr.'
        )
