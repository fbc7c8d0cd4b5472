from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch

from datamodules.text.token_cache import identify_tokenizer
from datamodules.text.tokenizer import ModelTokenizer, WordTokenizer
from datamodules.usage_error import UsageError
from experiments.tools.prepare import prepare_data_for
from lightning_modules.clip import CLIP
from lightning_modules.normalization import Normalization
from lightning_modules.towers import build_towers
from tests.helpers.tiny import CONTEXT_LENGTH, IMAGE_SIZE, TinyPairs, tiny_architecture, trainer, write_json


def architecture(folder: Path, name: str, **text: Any) -> str:
    """A tiny model whose settings of the text tower are changed."""
    config = json.loads(Path(tiny_architecture(folder, name)).read_text())
    return write_json(folder / f'{name}.json', {**config, 'text_cfg': {**config['text_cfg'], **text}})


def saved_model(folder: Path, **preprocessing: Any) -> str:
    """A tiny model as open_clip saves it for Hugging Face."""
    config = json.loads(Path(tiny_architecture(folder, 'saved')).read_text())
    return write_json(folder / 'open_clip_config.json', {'model_cfg': config, 'preprocess_cfg': preprocessing})


@pytest.mark.parametrize(
    ('content', 'sentence'),
    [
        ('{"embed_dim": 8', 'is not valid JSON: '),
        ('[1]', 'is not an open_clip model: it lacks embed_dim, vision_cfg, text_cfg; start from a shipped file'),
        ('{"embed_dim": 8, "vision_cfg": {}}', 'is not an open_clip model: it lacks text_cfg'),
        ('{"embed_dim": 8, "vision_cfg": {"size": 3}, "text_cfg": {}}', "cannot be built: .*'size'"),
        ('{"embed_dim": 8, "vision_cfg": {}, "text_cfg": 4}', 'is not an open_clip model: it lacks text_cfg'),
        ('{"embed_dim": 8, "vision_cfg": {"width": 0}, "text_cfg": {}}', 'cannot be built: '),
    ],
)
def test_a_broken_file_is_refused_and_forgotten(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / 'broken.json').write_text(content)
    with pytest.raises(UsageError, match=rf"^model\.architecture='.*broken\.json' {sentence}"):
        build_towers(str(tmp_path / 'broken.json'), None)
    assert build_towers(tiny_architecture(tmp_path), None).width == 8


def test_a_model_with_fewer_tokens_than_its_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'text_cfg\.vocab_size=999, but its tokenizer has 49408 tokens: raise it'):
        CLIP(architecture(tmp_path, 'small_vocabulary', vocab_size=999))


def test_a_tokenizer_that_cannot_be_loaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str) -> None:
        raise OSError('no network\nand many more lines')

    monkeypatch.setattr(open_clip, 'get_tokenizer', offline)
    with pytest.raises(UsageError, match=r'needs the tokenizer bert, .* \(no network\): install transformers and go'):
        CLIP(architecture(tmp_path, 'foreign', hf_tokenizer_name='bert'))


def test_weights_that_cannot_be_downloaded_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(config: dict[str, Any]) -> None:
        raise OSError('no network')

    monkeypatch.setattr(open_clip, 'download_pretrained', offline)
    with pytest.raises(UsageError, match=r"^model\.pretrained='openai' cannot be downloaded \(no network\): go online"):
        CLIP('RN50', pretrained='openai')


def test_captions_are_tokenized_as_the_model_was_trained(tmp_path: Path) -> None:
    model = CLIP(architecture(tmp_path, 'canonical', tokenizer_kwargs={'clean': 'canonicalize'}))
    data = TinyPairs(cache_dir=str(tmp_path / 'cache'), rows=8, heldout_rows=4)
    trainer(limit_predict_batches=0).predict(model, data)
    assert isinstance(data.tokenizer, ModelTokenizer)
    expected = open_clip.SimpleTokenizer(context_length=CONTEXT_LENGTH, clean='canonicalize')
    captions = data.table.captions(np.arange(8))
    assert np.array_equal(data.tokens, expected(captions).numpy())
    assert data.tokenizer("a dog's, life").tolist() == expected("a dog's, life")[0].tolist()
    (file,) = (tmp_path / 'cache').glob('tokens-*.npy')
    assert identify_tokenizer(data.tokenizer) in file.name
    assert identify_tokenizer(WordTokenizer(CONTEXT_LENGTH)) not in file.name


def test_a_tool_without_a_trainer_tokenizes_as_the_model_was_trained(tmp_path: Path) -> None:
    model = CLIP(architecture(tmp_path, 'canonical', tokenizer_kwargs={'clean': 'canonicalize'}))
    data = prepare_data_for(model, TinyPairs(cache_dir=str(tmp_path / 'cache'), rows=8, heldout_rows=4))
    expected = open_clip.SimpleTokenizer(context_length=CONTEXT_LENGTH, clean='canonicalize')
    assert np.array_equal(data.tokens, expected(data.table.captions(np.arange(8))).numpy())


@pytest.mark.parametrize(('caption', 'truncated'), [('a dog', 0), ('a dog a dog a dog', 0), ('a dog ' * 4, 1)])
def test_truncated_captions_are_counted(tmp_path: Path, caption: str, truncated: int) -> None:
    own = build_towers(architecture(tmp_path, 'canonical', tokenizer_kwargs={'clean': 'canonicalize'}), None).tokenizer
    assert own is not None
    tokenizer = ModelTokenizer(own, CONTEXT_LENGTH)
    assert len(tokenizer(caption)) == CONTEXT_LENGTH
    assert tokenizer.truncated == truncated


def test_pictures_are_normalized_as_the_model_was_trained(tmp_path: Path) -> None:
    model = CLIP(saved_model(tmp_path, mean=[0.5] * 3, std=[0.25] * 3)).eval()
    pixels = torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    clips = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in clips)
    with torch.no_grad():
        expected = torch.nn.functional.normalize(model.towers.encode_image((pixels - 0.5) / 0.25), dim=-1)
        assert torch.allclose(model.encode_image((pixels - mean) / std), expected, atol=1e-5)


def test_the_normalization_goes_with_the_weights(tmp_path: Path) -> None:
    model, checkpoint = CLIP(saved_model(tmp_path, mean=[0.5] * 3, std=[0.25] * 3)), dict[str, Any]()
    model.on_save_checkpoint(checkpoint)
    torch.save({**checkpoint, 'state_dict': model.state_dict()}, tmp_path / 'model.ckpt')
    started = CLIP(tiny_architecture(tmp_path), init_from=str(tmp_path / 'model.ckpt'))
    assert started.normalization.settings == {'mean': [0.5] * 3, 'std': [0.25] * 3}


@pytest.mark.parametrize(
    ('name', 'settings', 'logged'),
    [
        (
            'MobileCLIP-S1',
            {'mean': [0.0] * 3, 'std': [1.0] * 3},
            'pictures are normalized as open_clip does for Mobile',
        ),
        ('ViT-L/14', {}, 'normalized as for CLIP, but some weights of ViT-L-14 expect otherwise'),
        ('ViT-B-32', {}, ''),
        ('folder/own.json', {}, ''),
    ],
)
def test_a_file_of_weights_has_the_normalization_of_the_models_published_ones(
    name: str, settings: dict[str, Any], logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    # open_clip 3.3, whose files of weights do not hold it
    with caplog.at_level('INFO'):
        assert Normalization.published(name).settings == settings
    assert logged in caplog.text and bool(logged) == bool(caplog.text)


def test_weights_of_open_clip_from_a_file_are_normalized_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Normalization([0.5] * 3, [0.25] * 3)
    monkeypatch.setattr(Normalization, 'published', lambda architecture: other)
    architecture = tiny_architecture(tmp_path)
    torch.save(CLIP(architecture).towers.state_dict(), tmp_path / 'weights.pt')
    assert CLIP(architecture, pretrained=str(tmp_path / 'weights.pt')).normalization.settings == other.settings
    assert CLIP(architecture).normalization.settings == {}


def test_pictures_of_clip_are_left_as_they_are(tmp_path: Path) -> None:
    image = torch.rand(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert CLIP(tiny_architecture(tmp_path)).normalization(image) is image


@pytest.mark.parametrize('preprocessing', [{'mean': [0.5]}, {'std': [0.0, 1, 1]}])
def test_an_impossible_normalization_is_refused(tmp_path: Path, preprocessing: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r'not three of each, std above 0'):
        CLIP(saved_model(tmp_path, **preprocessing))


def test_trains_only_what_embeddings_depend_on(tmp_path: Path) -> None:
    vision = {'image_size': 8, 'patch_size': 4, 'layers': 1, 'width': 8, 'head_width': 4}
    pooled = {'attentional_pool': True, 'attn_pooler_heads': 2, 'output_tokens': True}
    text = {'context_length': 8, 'width': 8, 'heads': 2, 'layers': 1, 'embed_cls': True, 'output_tokens': True}
    decoder = {'context_length': 8, 'width': 8, 'heads': 2, 'layers': 1}
    coca = {'vision_cfg': vision | pooled, 'text_cfg': text, 'multimodal_cfg': decoder, 'custom_text': True}
    path = write_json(tmp_path / 'coca_with_bias.json', {'embed_dim': 8, 'init_logit_bias': -10, **coca})
    model = build_towers(path, None).model
    similarity = model.encode_image(torch.randn(2, 3, 8, 8)) @ model.encode_text(torch.ones(2, 8).long()).T
    (similarity * model.logit_scale).sum().backward()
    assert model.logit_bias is not None
    assert all((weight.grad is not None) == weight.requires_grad for weight in model.parameters())
