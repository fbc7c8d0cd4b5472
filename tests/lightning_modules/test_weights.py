from __future__ import annotations

import copy
import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from datamodules.usage_error import UsageError
from experiments.checkpoint_io import AtomicCheckpointIO
from lightning_modules.clip import CLIP
from lightning_modules.weights import read_checkpoint, trained_pairs
from tests.helpers.tiny import CONTEXT_LENGTH, IMAGE_SIZE, tiny_architecture, trainer


class RunsCode:
    """An object that would write a file if it were loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


def save_torchscript(towers: Any, file: Path) -> None:
    """Saves a model in the form of OpenAI's files: traced, and in half precision."""
    inputs = torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE).half(), torch.ones(1, CONTEXT_LENGTH).long()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # torch.jit is deprecated, and traces no branches
        torch.jit.trace(copy.deepcopy(towers).half().eval(), inputs, check_trace=False).save(str(file))


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of weights by their names, and files that are none."""
    folder = tmp_path_factory.mktemp('weights')
    model = CLIP(tiny_architecture(folder))
    towers = model.towers.state_dict()
    torch.save({'state_dict': model.state_dict(), 'pytorch-lightning_version': '2.6.0'}, folder / 'ours')
    torch.save({'epoch': 3, 'state_dict': {f'module.{name}': value for name, value in towers.items()}}, folder / 'open')
    torch.save({f'_orig_mod.{name}': value for name, value in towers.items()}, folder / 'compiled')
    inside = {f'model.clip.{name}': value for name, value in towers.items()}
    torch.save({'state_dict': inside | {'model.head': torch.zeros(2)}}, folder / 'inside')
    torch.save({'text_model.x': torch.zeros(2), 'logit_scale': torch.zeros(())}, folder / 'transformers')
    torch.save(CLIP(tiny_architecture(folder, 'other', width=12)).towers.state_dict(), folder / 'larger')
    save_file(towers, folder / 'towers.safetensors')
    save_torchscript(model.towers, folder / 'openai')
    save_torchscript(CLIP(tiny_architecture(folder, 'deeper', layers=2)).towers, folder / 'deeper_openai')
    torch.save({'epoch': 3, 'note': 'text'}, folder / 'no weights')
    torch.save(towers | {'logit_scale': torch.tensor(torch.nan)}, folder / 'diverged')
    torch.save({'state_dict': model.state_dict(), 'extra': RunsCode(folder / 'ran')}, folder / 'objects')
    (folder / 'pickle').write_bytes(pickle.dumps(RunsCode(folder / 'ran'), protocol=2))
    torch.save([1, 2], folder / 'list')
    (folder / 'empty').write_bytes(b'')
    (folder / 'text').write_text('no checkpoint')
    (folder / 'pointer').write_text('version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 3\n')
    (folder / 'cut').write_bytes((folder / 'ours').read_bytes()[:999])
    (folder / 'folder').mkdir()
    return folder


DAMAGED = r'is damaged, or not a checkpoint: give another file\.$'
NO_CHECKPOINT = r'is not a checkpoint: give a file that torch\.save has written\.$'
POINTER = r'is a Git LFS pointer in the place of the file: fetch the file itself with git lfs pull\.$'
ANOTHER = r'holds weights of another architecture: set model\.architecture'
OBJECTS = r'holds objects \(\w+\.mkdir\) that could run code: give a file of tensors and plain values alone\.$'
NOT_OURS = r'is not a Clipward checkpoint: use model\.pretrained for other weights\.$'


@pytest.mark.parametrize(
    ('name', 'sentence'),
    [
        ('open', NOT_OURS),
        ('list', NOT_OURS),
        ('towers.safetensors', NOT_OURS),
        ('objects', OBJECTS),
        ('pickle', OBJECTS),
        ('empty', DAMAGED),
        ('text', NO_CHECKPOINT),
        ('pointer', POINTER),
        ('cut', DAMAGED),
        ('folder', r'is a folder: give a checkpoint in it\.$'),
        ('absent', r'does not exist: give the path of a checkpoint\.$'),
    ],
)
def test_what_is_no_checkpoint_is_refused_with_its_reason(folder: Path, name: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as refusal:
        read_checkpoint(folder / name, 'model.init_from')
    assert str(refusal.value).startswith(f'model.init_from={str(folder / name)!r} ')
    assert 'weights_only' not in str(refusal.value) and not (folder / 'ran').exists()


@pytest.mark.parametrize(
    ('name', 'sentence'),
    [
        ('larger', ANOTHER),
        ('deeper_openai', ANOTHER),
        ('no weights', r'holds no weights: give a file that open_clip, OpenAI or Clipward has saved from a model\.$'),
        ('diverged', r'holds weights that are not finite numbers \(1 tensors, first logit_scale\)'),
        ('objects', OBJECTS),
        ('list', DAMAGED),
        ('text', NO_CHECKPOINT),
        ('pointer', POINTER),
        ('transformers', r'holds weights under the names of transformers, .*: give open_clip_pytorch_model\.bin'),
        ('folder', r'is a folder: give the file of weights in it'),
        ('absent', r'does not exist: give the path of a file of weights, or a tag\.$'),
        ('cut', DAMAGED),
    ],
)
def test_what_are_no_weights_of_open_clip_is_refused_with_its_reason(folder: Path, name: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as refusal:
        CLIP(tiny_architecture(folder), pretrained=str(folder / name))
    assert str(refusal.value).startswith(f'model.pretrained={str(folder / name)!r} ')


@pytest.mark.parametrize('argument', ['pretrained', 'init_from'])
@pytest.mark.parametrize('name', ['ours', 'open', 'compiled', 'inside', 'towers.safetensors', 'openai'])
def test_weights_are_loaded_whoever_has_saved_them(folder: Path, name: str, argument: str) -> None:
    ours = read_checkpoint(folder / 'ours', 'model.init_from')['state_dict']
    model = CLIP(tiny_architecture(folder), **{argument: str(folder / name)})
    loaded, dtype = model.state_dict(), torch.float16 if name == 'openai' else torch.float32
    assert all(torch.equal(loaded[key], value.to(dtype).float()) for key, value in ours.items())
    assert not model.untrained


def test_nothing_in_a_torchscript_archive_is_run(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(folder / 'openai') as archive, zipfile.ZipFile(tmp_path / 'evil', 'w') as changed:
        for name in archive.namelist():
            evil = name.endswith('/data.pkl')
            content = pickle.dumps(RunsCode(tmp_path / 'ran'), protocol=2) if evil else archive.read(name)
            changed.writestr(name, content)
    with pytest.raises(UsageError, match=OBJECTS):
        CLIP(tiny_architecture(folder), pretrained=str(tmp_path / 'evil'))
    assert not (tmp_path / 'ran').exists()


def test_a_checkpoint_of_clipward_keeps_what_it_knows_of_its_pairs(folder: Path) -> None:
    ours = read_checkpoint(folder / 'ours', 'model.init_from')
    torch.save({**ours, 'ToyPairs': {'trained_pairs': torch.tensor([1])}}, folder / 'knows')
    (known,) = CLIP(tiny_architecture(folder), pretrained=str(folder / 'knows')).trained_pairs
    assert known.tolist() == [1]


def test_a_checkpoint_to_resume_from_is_read_the_same_way(folder: Path) -> None:
    assert 'state_dict' in AtomicCheckpointIO().load_checkpoint(folder / 'ours')
    AtomicCheckpointIO().save_checkpoint({'epoch': 1}, folder / 'beside.ckpt')  # whole, but of no help
    refused = {
        'open': NOT_OURS,
        'towers.safetensors': NOT_OURS,
        'text': NO_CHECKPOINT,
        'pointer': POINTER,
        'cut': DAMAGED,
    }
    for name, reason in refused.items():
        with pytest.raises(UsageError, match=rf'^ckpt_path=.*{name}. ({reason})'):
            AtomicCheckpointIO().load_checkpoint(folder / name)


def test_weights_know_all_pairs_they_were_trained_on(folder: Path) -> None:
    ours = read_checkpoint(folder / 'ours', 'model.init_from')
    assert trained_pairs(ours) == []  # of an earlier release
    first, second = torch.tensor([1]), torch.tensor([2, 3])
    torch.save({**ours, 'ToyPairs': {'trained_pairs': first}}, folder / 'first')
    model, run = CLIP(tiny_architecture(folder), init_from=str(folder / 'first')), trainer()
    model._trainer = run
    saved: dict[str, Any] = {**ours, 'optimizer_states': []}
    model.on_save_checkpoint(saved)
    saved['CSVPairs'] = {'trained_pairs': second}  # Lightning's part
    for stage, known in (('predict', [first, second]), ('fit', [first])):  # a run that goes on saves its own again
        run.state.fn = stage
        model.on_load_checkpoint(saved)
        assert [pairs.tolist() for pairs in model.trained_pairs] == [pairs.tolist() for pairs in known]


def test_no_run_goes_on_from_weights_alone(folder: Path) -> None:
    model, run = CLIP(tiny_architecture(folder)), trainer()
    run.state.fn = 'fit'
    model._trainer = run
    with pytest.raises(UsageError, match=r'^ckpt_path holds weights alone, .* start a new one with model\.init_from'):
        model.on_load_checkpoint(read_checkpoint(folder / 'ours', 'ckpt_path'))
