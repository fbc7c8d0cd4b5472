from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from datamodules.usage_error import UsageError
from lightning_modules import tiles
from lightning_modules.losses import Direction, info_nce, nearest_neighbor_loss, one_way
from tests.helpers.tiny import unit_rows

ONE = torch.tensor(1.0, dtype=torch.float64)
SHARP = torch.tensor(1 / 0.07, dtype=torch.float64)
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def rows(*values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def approximately(value: float) -> float:
    return pytest.approx(value, abs=1e-9)


def one_way_by_definition(anchor: Tensor, candidate: Tensor, scale: float) -> float:
    """The formula in the docstring, one pair at a time, without cross_entropy."""
    total = 0.0
    for j in range(len(anchor)):
        positive = math.exp(scale * float(anchor[j] @ candidate[j]))
        total -= math.log(positive / sum(math.exp(scale * float(anchor[j] @ c)) for c in candidate))
    return total / len(anchor)


class TestInfoNCE:
    @pytest.mark.parametrize('batch_size', [1, 2, 7])
    @pytest.mark.parametrize('scale', [1.0, 20.0])
    def test_agrees_with_the_definition(self, batch_size: int, scale: float) -> None:
        image, text = unit_rows(batch_size, 5, seed=0), unit_rows(batch_size, 5, seed=1)
        expected = (one_way_by_definition(image, text, scale) + one_way_by_definition(text, image, scale)) / 2
        assert info_nce(image, text, ONE * scale).item() == approximately(expected)

    @pytest.mark.parametrize(('scale', 'loss'), [(1, 0.5981388694), (1 / 0.07, 0.0558439129), (100, 2.06115e-9)])
    def test_two_pairs_match_a_calculation_by_hand(self, scale: float, loss: float) -> None:
        text = rows((0.8, 0.6), (0.6, 0.8))
        actual = info_nce(torch.eye(2, dtype=torch.float64), text, ONE * scale).item()
        assert actual == pytest.approx(loss, abs=1e-9 if scale < 100 else 1e-13)
        assert actual == pytest.approx(math.log1p(math.exp(-0.2 * scale)), rel=1e-6)

    def test_is_the_mean_of_both_directions(self) -> None:
        image, text = rows((1, 0), (0.6, 0.8)), rows((0.8, 0.6), (1, 0))
        assert one_way(image, text, ONE).item() == approximately(0.8436996592)
        assert one_way(text, image, ONE).item() == approximately(0.8446795127)
        assert info_nce(image, text, ONE).item() == approximately(0.8441895860)

    def test_two_perfect_pairs_still_cost_something(self) -> None:
        perfect = torch.eye(2, dtype=torch.float64)
        assert info_nce(perfect, perfect, ONE).item() == approximately(0.3132616875)

    def test_costs_log_batch_size_when_all_pairs_look_alike(self) -> None:
        same = unit_rows(1, 5, seed=0).expand(8, -1)
        assert info_nce(same, same, 100 * ONE).item() == approximately(math.log(8))

    def test_pulls_an_image_towards_its_caption_and_away_from_others(self) -> None:
        image, text = unit_rows(4, 5, seed=0).requires_grad_(), unit_rows(4, 5, seed=1)
        info_nce(image, text, ONE).backward()
        assert image.grad is not None
        change = -image.grad @ text.T  # (4, 4): how a descent step changes each cosine
        assert (change.diagonal() > change.mean(1)).all()

    @pytest.mark.parametrize('ranks', [2, 3])
    def test_mean_over_processes_equals_loss_and_gradient_of_one_process(self, ranks: int) -> None:
        image, text = unit_rows(6, 5, seed=0).requires_grad_(), unit_rows(6, 5, seed=1).requires_grad_()
        scale = SHARP.clone().requires_grad_()
        per_rank = 6 // ranks
        parts = [slice(first, first + per_rank) for first in range(0, 6, per_rank)]
        shares = torch.stack([info_nce(image[p], text[p], scale, image, text, p.start) for p in parts])
        gradients = torch.autograd.grad(shares.mean(), (image, text, scale))  # DDP averages
        whole = info_nce(image, text, scale)
        assert shares.mean().item() == approximately(whole.item())
        for gradient, expected in zip(gradients, torch.autograd.grad(whole, (image, text, scale)), strict=True):
            assert torch.allclose(gradient, expected, atol=1e-12)

    def test_names_both_shapes_when_only_one_side_was_gathered(self) -> None:
        with pytest.raises(ValueError, match=r'images \(4, 5\) and captions \(8, 5\)'):
            info_nce(unit_rows(4, 5, seed=0), unit_rows(8, 5, seed=1), ONE)


def nearest_rows(view: Tensor, pool: Tensor) -> Tensor:
    return pool[(view @ pool.T).argmax(1)]


POOL = rows((1, 0), (0, 1), (-1, 0))
VIEW_1 = rows((0.8, 0.6), (0.6, 0.8))
VIEW_2 = rows((0.6, 0.8), (0, 1))


class TestNearestNeighborLoss:
    @pytest.mark.parametrize(
        ('direction', 'loss'),
        [('view_rows', 0.5557002784), ('nn_rows', 0.5178134099), ('symmetric', 0.5367568442)],
    )
    def test_each_direction_gives_the_known_loss(self, direction: Direction, loss: float) -> None:
        neighbor = nearest_rows(VIEW_1, POOL)
        assert neighbor.tolist() == [[1, 0], [0, 1]]
        assert nearest_neighbor_loss(VIEW_2, neighbor, ONE, direction).item() == approximately(loss)

    @pytest.mark.parametrize(('direction', 'loss'), [('view_rows', 1.4564936975), ('nn_rows', 0.0280166684)])
    def test_each_direction_gives_the_known_loss_at_a_low_temperature(self, direction: Direction, loss: float) -> None:
        assert nearest_neighbor_loss(VIEW_2, POOL[:2], SHARP, direction).item() == approximately(loss)

    def test_a_view_may_stand_in_for_the_neighbor(self) -> None:
        assert nearest_neighbor_loss(VIEW_2, VIEW_1, ONE, 'view_rows').item() == approximately(0.6557430183)

    def test_gradient_of_the_released_form_reaches_the_view(self) -> None:
        view = VIEW_2.clone().requires_grad_()
        nearest_neighbor_loss(view, POOL[:2], ONE, 'view_rows').backward()
        expected = rows((-0.2749169987, 0.2749169987), (0.1344707107, -0.1344707107))
        assert view.grad is not None
        assert torch.allclose(view.grad, expected, atol=1e-9)

    @pytest.mark.parametrize('direction', ['view_rows', 'nn_rows', 'symmetric'])
    def test_mean_over_processes_equals_the_loss_of_one_process(self, direction: Direction) -> None:
        view, neighbor = unit_rows(6, 5, seed=0), unit_rows(6, 5, seed=1)
        whole = nearest_neighbor_loss(view, neighbor, SHARP, direction)
        halves = [
            nearest_neighbor_loss(view[p], neighbor[p], SHARP, direction, view, neighbor, p.start)
            for p in (slice(0, 3), slice(3, 6))
        ]
        assert torch.stack(halves).mean().item() == approximately(whole.item())


class TestTiles:
    """A loss in tiles, which computes its own gradient, against the same loss without them."""

    def inputs(self, batch: int = 7, dim: int = 5, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        rows = [unit_rows(batch, dim, seed).to(dtype) for seed in (0, 1)]
        return [tensor.requires_grad_() for tensor in (*rows, SHARP.to(dtype).clone())]

    def of_a_rank(self, image: Tensor, text: Tensor, scale: Tensor, tile_size: int | None = 2) -> Tensor:
        return info_nce(image[2:6], text[2:6], scale, image, text, 2, tile_size)

    @pytest.mark.parametrize('direction', ['view_rows', 'nn_rows', 'symmetric'])
    def test_gradients_are_those_of_the_loss(self, direction: Direction) -> None:
        def loss(view: Tensor, neighbor: Tensor, scale: Tensor) -> Tensor:
            return nearest_neighbor_loss(
                view[2:6], neighbor[2:6], scale / 10, direction, view, neighbor, 2, tile_size=3
            )

        assert torch.autograd.gradcheck(loss, self.inputs())

    @pytest.mark.parametrize('frozen', [0, 1, 2])
    def test_gradients_are_those_of_the_loss_if_an_input_has_none(self, frozen: int) -> None:
        inputs = self.inputs()
        inputs[frozen].requires_grad_(False)
        trained = [tensor for tensor in inputs if tensor.requires_grad]
        gradients = torch.autograd.grad(self.of_a_rank(*inputs), trained)
        for gradient, expected in zip(
            gradients, torch.autograd.grad(self.of_a_rank(*inputs, None), trained), strict=True
        ):
            assert torch.allclose(gradient, expected, atol=1e-12)

    @pytest.mark.parametrize('tile_size', [1, 100, 299])
    def test_are_exact_in_float32(self, tile_size: int) -> None:
        exact, single = self.inputs(300, 64), self.inputs(300, 64, torch.float32)
        expected, loss = info_nce(*exact), info_nce(*single, tile_size=tile_size)
        assert loss.dtype == torch.float32 and loss.item() == pytest.approx(expected.item(), rel=1e-6)
        gradients = torch.autograd.grad(loss, single)
        for gradient, reference in zip(gradients, torch.autograd.grad(expected, exact), strict=True):
            assert (gradient - reference).abs().max() < 1e-6

    def test_are_computed_in_float32_under_autocast_and_from_half_precision(self) -> None:
        image, text, scale = (tensor.detach().bfloat16() for tensor in self.inputs())
        image.requires_grad_()
        with torch.autocast('cpu', dtype=torch.bfloat16):
            loss = self.of_a_rank(image, text, scale)
        loss.backward()
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(
            self.of_a_rank(image.float(), text.float(), scale.float(), None).item(), rel=1e-6
        )
        assert image.grad is not None and image.grad.dtype == torch.bfloat16

    def test_nothing_is_differentiated_without_gradients(self, monkeypatch: pytest.MonkeyPatch) -> None:
        inputs = self.inputs()
        expected = self.of_a_rank(*inputs).item()
        monkeypatch.delattr(torch, 'mm')  # of the gradients alone
        with torch.no_grad():
            assert self.of_a_rank(*inputs).item() == expected

    def test_a_scale_may_be_the_one_entry_of_a_vector(self) -> None:
        image, text, scale = self.inputs()
        (gradient,) = torch.autograd.grad(self.of_a_rank(image, text, scale), [scale])
        vector = scale.detach().reshape(1).requires_grad_()
        self.of_a_rank(image, text, vector).backward()
        assert vector.grad is not None and torch.equal(vector.grad, gradient.reshape(1))

    def test_a_loss_can_be_weighted_and_summed(self) -> None:
        inputs = self.inputs()
        losses = [3 * self.of_a_rank(*inputs, size) + self.of_a_rank(*inputs, size) for size in (2, None)]
        one, other = (torch.autograd.grad(loss, inputs[0])[0] for loss in losses)
        assert torch.allclose(one, other, atol=1e-12)

    def test_keep_no_similarities_for_the_backward_pass(self) -> None:
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
            info_nce(*self.inputs(64, 2), tile_size=8)
        assert max(kept) == 64 * 2  # of 64 x 64

    def test_large_batches_are_divided_and_others_keep_every_bit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        inputs = self.inputs(40, 5, torch.float32)
        logits = inputs[2] * inputs[0] @ inputs[1].T
        plain = torch.nn.functional.cross_entropy(logits, torch.arange(40))
        assert torch.equal(one_way(*inputs), plain)
        monkeypatch.setattr(tiles, 'WHOLE', 40 * 40 - 1)
        monkeypatch.setattr(tiles, 'TILE', 3 * 40)
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
            assert one_way(*inputs).item() == pytest.approx(plain.item(), rel=1e-6)
        assert max(kept) < 40 * 40

    def test_refuse_a_size_below_one(self) -> None:
        with pytest.raises(UsageError, match=r'^tile_size must be at least 1, got 0\.$'):
            self.of_a_rank(*self.inputs(), 0)
