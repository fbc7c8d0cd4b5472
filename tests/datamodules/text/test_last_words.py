from __future__ import annotations

import pyarrow as pa

from datamodules.text.last_words import last_words


def test_of_filled_templates_are_the_classes() -> None:
    prompts = ['a photo of a {}.', 'a blurry photo of the {}', 'A Photo Of An {} !']
    captions = [prompt.format(name) for prompt in prompts for name in ('cat', 'sports car', 'Ox', 'OTTER')]
    assert last_words(pa.array(captions), 2, 6) == ['cat', 'otter']  # "sports" stands between article and "car"


def test_of_sentences_are_things() -> None:
    captions = ['Boys play in the water .', 'a dog near the water', 'she sees him', 'near him', 'they run', 'dogs run']
    assert last_words(pa.array(captions), 2, 6) == ['water']
    assert last_words(pa.array(captions), 2, 6, after_article=False) == ['him', 'run', 'water']


def test_end_neither_too_few_captions_nor_too_many() -> None:
    captions = pa.chunked_array([['a cat'] * 5, ['a dog'] * 3, ['a cow', '...', '12']])
    assert last_words(captions, 2, 4) == ['dog']
    assert last_words(captions, 12, 20) == []
