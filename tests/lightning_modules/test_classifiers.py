from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_modules.classifiers import Classifiers, identify_text_tower
from lightning_modules.clip import CLIP
from tests.helpers.tiny import TinyPairs, tiny_architecture, trainer


class Counting:
    """Counts how often prompts are encoded."""

    width = 2

    def __init__(self) -> None:
        self.encoded: list[int] = []

    def classifier(self, tokens: Tensor) -> Tensor:
        self.encoded.append(int(tokens[0, 0, 0]))
        return tokens[:, 0, :2].float()


def prompts(first: int) -> Tensor:
    return torch.full((3, 2, 4), first)


class TestEncodesOnce:
    def test_for_sets_with_the_same_prompts(self) -> None:
        model = Counting()
        built = Classifiers().build([prompts(1), prompts(2), prompts(1)], model, 'tower')
        assert model.encoded == [1, 2] and [int(each[0, 0]) for each in built] == [1, 2, 1]

    def test_for_the_next_evaluation_if_the_text_tower_is_the_same(self) -> None:
        model, classifiers = Counting(), Classifiers()
        for tower in ('a', 'a', 'b', 'a'):
            classifiers.build([prompts(1)], model, tower)
        assert model.encoded == [1, 1, 1] and len(classifiers.known) == 1  # those of other weights are not kept

    def test_for_other_processes_with_a_folder(self, tmp_path: Path) -> None:
        model = Counting()
        keep = TinyPairs(cache_dir=str(tmp_path)).kept_array
        first, second = (Classifiers().build([prompts(1)], model, 'tower', keep) for _ in range(2))
        assert model.encoded == [1] and torch.equal(first[0], second[0])


class TestIdentity:
    @pytest.fixture
    def towers(self, tmp_path: Path) -> torch.nn.Module:
        return CLIP(tiny_architecture(tmp_path)).towers

    @pytest.mark.parametrize('name', ['token_embedding.weight', 'text_projection', 'positional_embedding'])
    def test_changes_with_the_text_tower(self, name: str, towers: torch.nn.Module) -> None:
        before = identify_text_tower(towers)
        with torch.no_grad():
            towers.get_parameter(name).view(-1)[0] += 1
        assert identify_text_tower(towers) != before

    def test_does_not_change_with_the_image_tower(self, towers: torch.nn.Module) -> None:
        before = identify_text_tower(towers)
        with torch.no_grad():
            towers.get_parameter('visual.proj').add_(1)
            towers.get_parameter('logit_scale').add_(1)
        assert identify_text_tower(towers) == before

    def test_changes_with_the_precision(self, towers: torch.nn.Module) -> None:
        assert identify_text_tower(towers, '32-true') != identify_text_tower(towers, 'bf16-mixed')


class OneFrozen(CLIP):
    """Trains the image tower alone."""

    def configure_optimizers(self) -> Any:
        for name, weight in self.towers.named_parameters():
            weight.requires_grad_(name.startswith('visual.'))
        return super().configure_optimizers()


@pytest.mark.parametrize(('kind', 'times'), [(CLIP, 2), (OneFrozen, 1)])
def test_prompts_are_encoded_again_where_training_changed_the_text_tower(
    kind: type[CLIP], times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, encoded = kind(tiny_architecture(tmp_path), lr=1e-2), list[Tensor]()
    monkeypatch.setattr(model, 'classifier', lambda tokens: encoded.append(tokens) or CLIP.classifier(model, tokens))
    trainer(max_epochs=2).fit(model, TinyPairs(cache_dir=str(tmp_path)))
    assert len(encoded) == times and not list(tmp_path.glob('classifier-*'))


def test_a_second_measurement_of_a_checkpoint_encodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = CLIP(tiny_architecture(tmp_path))
    trainer().validate(model, TinyPairs(cache_dir=str(tmp_path)), verbose=False)
    again = CLIP(tiny_architecture(tmp_path))
    again.load_state_dict(model.state_dict())
    monkeypatch.setattr(again, 'classifier', lambda tokens: pytest.fail('encoded again'))
    trainer().test(again, TinyPairs(cache_dir=str(tmp_path)), verbose=False)
    assert torch.equal(model.classifiers[0], again.classifiers[0])
