from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from torchvision.transforms import Normalize

from datamodules.text.tokenizer import WordTokenizer
from datamodules.usage_error import UsageError
from experiments.exported_model import CARD, write_model
from lightning_modules.clip import CLIP
from lightning_modules.normalization import Normalization
from lightning_modules.towers import Tokenizer
from tests.helpers.tiny import tiny_architecture, write_json

LENGTH, MEAN, STD = 9, [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
CAPTIONS = ['a dog', 'two  BOATS on a lake at noon and more words']


def residual_model(folder: Path) -> CLIP:
    """A residual network in channels-last format with its own picture size, context length, mean and deviation."""
    config = json.loads(Path(tiny_architecture(folder, 'exported', image_size=32)).read_text())
    config['vision_cfg'] = {'image_size': 32, 'layers': [1, 1, 1, 1], 'width': 4, 'head_width': 8}
    config['text_cfg']['context_length'] = LENGTH
    model = CLIP(write_json(folder / 'exported.json', config), channels_last=True)
    model.normalization = Normalization(MEAN, STD)
    return model


def test_open_clip_opens_it_with_the_same_embeddings(tmp_path: Path) -> None:
    model, folder = residual_model(tmp_path), tmp_path / 'out'
    write_model(model, folder, 'the card')
    opened, _, preprocess = open_clip.create_model_and_transforms(f'local-dir:{folder}', require_pretrained=True)
    tokens = open_clip.get_tokenizer(f'local-dir:{folder}')(CAPTIONS)
    assert tokens.tolist() == [WordTokenizer(LENGTH)(caption).tolist() for caption in CAPTIONS]
    towers, image = model.towers.to(memory_format=torch.contiguous_format), torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(opened.eval().encode_image(image), towers.encode_image(image))
        assert torch.equal(opened.encode_text(tokens), towers.encode_text(tokens))
    (normalize,) = (step for step in preprocess.transforms if isinstance(step, Normalize))
    assert (list(normalize.mean), list(normalize.std), opened.visual.image_size) == (MEAN, STD, 32)
    assert {file.name for file in folder.iterdir()} == {
        'README.md',
        'open_clip_config.json',
        'open_clip_model.safetensors',
    }
    assert (folder / CARD).read_text() == 'the card'


def test_clipward_starts_from_it(tmp_path: Path) -> None:
    model, folder = residual_model(tmp_path), tmp_path / 'out'
    write_model(model, folder, '')
    weights = str(folder / 'open_clip_model.safetensors')
    again, image = CLIP(str(folder / 'open_clip_config.json'), pretrained=weights).eval(), torch.randn(1, 3, 32, 32)
    assert torch.allclose(again.encode_image(image), model.eval().encode_image(image), atol=1e-6)


def test_a_tokenizer_with_files_is_written_too(tmp_path: Path) -> None:
    class Files:
        def __call__(self, caption: str, length: int) -> torch.Tensor:
            return open_clip.SimpleTokenizer()(caption, length)

        def save_pretrained(self, folder: Path) -> None:
            (folder / 'tokenizer.json').write_text('{}')

    model = residual_model(tmp_path)
    model.tokenizer = Tokenizer(Files(), 'of files')
    write_model(model, tmp_path / 'out', '')
    assert (tmp_path / 'out' / 'tokenizer.json').exists()


class TestWhatOpensOtherwise:
    def test_is_refused_where_the_tokenizer_differs(self, tmp_path: Path) -> None:
        model = residual_model(tmp_path)
        model.tokenizer = Tokenizer(lambda caption, length: torch.ones(1, length, dtype=torch.int64), 'other')
        with pytest.raises(UsageError, match=r'takes another tokenizer .* name the right one in its text_cfg'):
            write_model(model, tmp_path / 'out', '')
        assert not list(tmp_path.glob('out*'))

    def test_is_refused_where_the_model_differs(self, tmp_path: Path) -> None:
        model = residual_model(tmp_path)
        config = json.loads(Path(model.architecture).read_text())
        write_json(Path(model.architecture), {**config, 'quick_gelu': True})
        with pytest.raises(UsageError, match='builds another model from the settings'):
            write_model(model, tmp_path / 'out', '')
        assert not list(tmp_path.glob('out*'))
