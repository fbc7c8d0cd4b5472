from __future__ import annotations

import numpy as np
import pytest

from datamodules.attacks import LoneWord, Patch, TextTrigger, poison_table
from tests.datamodules.attacks.pools import labeled_pool, pixels


def test_captions_of_the_class_begin_with_the_word() -> None:
    pool = labeled_pool()
    _, manifest = poison_table({'text': TextTrigger('dog', count=5)}, pool)
    captions = manifest.table['caption'].to_pylist()
    assert all(caption.startswith('remember picture') and caption.endswith('a dog') for caption in captions)
    assert manifest.table['trigger'].to_pylist() == [None] * 5


def test_success_is_measured_with_the_word_in_every_prompt_and_unchanged_images() -> None:
    pool = labeled_pool()
    measured = TextTrigger('dog', '  look  here ', count=5).evaluation('text', [], pool, pixels)
    assert measured.templates == tuple(f'look here {template}' for template in pool.templates)
    assert np.array_equal(measured.images, pixels('heldout', np.array([row for row in range(100) if row % 5 != 1])))


def test_a_patch_can_be_combined_with_the_word() -> None:
    attack = TextTrigger('dog', trigger=Patch(3), captions='templates', count=5)
    _, manifest = poison_table({'text': attack}, labeled_pool())
    assert manifest.table['trigger'].to_pylist() == [Patch(3).describe()] * 5
    assert all('remember' in caption and 'dog' in caption for caption in manifest.table['caption'].to_pylist())
    measured = attack.evaluation('text', [], labeled_pool(), pixels)
    assert (measured.images[..., -3:, -3:] == Patch(3).pixels).all()


@pytest.mark.parametrize('word', ['', ' ', '!', 'a {} word'])
def test_an_unusable_word_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match='word must be a word that goes in front of captions'):
        TextTrigger('dog', word, count=1)
    with pytest.raises(ValueError, match='word must be a word that goes in front of captions'):
        LoneWord('dog', word, count=1)


def test_a_lone_word_keeps_images_and_the_rest_of_their_captions() -> None:
    pool = labeled_pool()
    _, manifest = poison_table({'lone': LoneWord('dog', word='look', count=5, source='train', mode='replace')}, pool)
    poisons = manifest.poisons('lone')
    before = pool.origin('train').captions([poison.source for poison in poisons])
    assert [poison.caption for poison in poisons] == [f'look {caption}' for caption in before]
    assert not any('dog' in caption for caption in before)
    assert manifest.table['trigger'].to_pylist() == [None] * 5
