from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_modules.adversarial import pixel_gradient
from lightning_modules.clip import CLIP, embed
from lightning_modules.hotflip import best_candidates, embedding_of, hotflip_scores, token_embeddings
from lightning_modules.losses import info_nce
from tests.helpers.tiny import tiny_architecture, unit_rows

EMBEDDING = torch.tensor([[0.0, 0], [1, 0], [0, 1], [-1, -1], [2, 1]])
GRADIENT = torch.tensor([[0.5, -1], [-0.25, 0.75]])


class TestScores:
    def test_golden_values(self) -> None:
        expected = torch.tensor([[0, -0.5, 1, -0.5, 0], [0, 0.25, -0.75, 0.5, -0.25]])
        assert torch.equal(hotflip_scores(GRADIENT[:, None], EMBEDDING)[:, 0], expected)

    def test_the_present_token_changes_no_order(self) -> None:
        scores = hotflip_scores(GRADIENT[:, None], EMBEDDING)[:, 0]
        shifted = scores - scores.gather(1, torch.tensor([[0], [1]]))
        assert shifted[1].tolist() == [-0.25, 0, -1, 0.25, -0.5]
        assert torch.equal(shifted.argsort(dim=1, stable=True), scores.argsort(dim=1, stable=True))

    def test_equal_the_first_order_change_of_the_loss(self, tmp_path: Path) -> None:
        """Moves the embedding of one slot a little towards each word, and looks at the loss itself."""
        torch.manual_seed(0)
        towers = CLIP(tiny_architecture(tmp_path, 'hotflip')).double().eval().towers
        tokens = torch.tensor([[49406, 518, 320, 49407, 0, 0, 0, 0], [49406, 518, 1929, 2368, 49407, 0, 0, 0]])
        image, words = unit_rows(2, 8, seed=1).double(), embedding_of(towers).weight[[320, 518, 1929, 2368]].detach()

        def loss_and_leaf(move: torch.Tensor | float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
            with token_embeddings(towers) as leaves:
                handle = embedding_of(towers).register_forward_hook(lambda *call: call[2] + move)
                text = torch.nn.functional.normalize(towers.encode_text(tokens), dim=-1)
                handle.remove()
            return info_nce(image, text, torch.tensor(10.0)), leaves[0]

        loss, leaf = loss_and_leaf()
        scores = hotflip_scores(pixel_gradient(loss, leaf)[:, 1:2], words)[:, 0]
        for row in range(2):
            changes = []
            for word in words:
                move = torch.zeros_like(leaf)
                move[row, 1] = 1e-3 * (word - leaf[row, 1])
                ahead, back = (loss_and_leaf(sign * move)[0] for sign in (1, -1))
                changes.append((ahead - back) / 2e-3)
            predicted = scores[row] - scores[row, 1]  # 518, `the`, is the second word
            assert torch.stack(changes).detach() == pytest.approx(-predicted.double(), abs=1e-6)

    def test_the_gradient_of_a_pair_is_its_own(self, tmp_path: Path) -> None:
        """The gradient reaches the embeddings of this call and not the table, whose gradient sums over the batch."""
        torch.manual_seed(0)
        model = CLIP(tiny_architecture(tmp_path, 'hotflip')).eval()
        tokens = torch.tensor([[49406, 518, 49407, 0, 0, 0, 0, 0]]).repeat(2, 1)
        with token_embeddings(model.towers) as leaves:
            text = embed(model.towers.encode_text, tokens)
        gradient = pixel_gradient((text * unit_rows(2, 8, seed=0).float()).sum(), leaves[0])
        assert len(leaves) == 1 and gradient.shape == (2, 8, 8)
        assert not torch.allclose(gradient[0, 1], gradient[1, 1])
        assert embedding_of(model.towers).weight.grad is None
        assert not embedding_of(model.towers)._forward_hooks


class TestCandidates:
    def test_golden_order(self) -> None:
        scores, tokens = hotflip_scores(GRADIENT[:, None], EMBEDDING)[:, 0], torch.arange(5)
        assert best_candidates(scores, tokens, 2).tolist() == [[2, 0], [3, 1]]  # 0 and 4 are equal

    def test_a_banned_token_is_no_candidate_and_the_lowest_of_equal_ones_wins(self) -> None:
        allowed = torch.tensor([0, 1, 3, 4])
        scores = hotflip_scores(GRADIENT[:1, None], EMBEDDING[allowed])[:, 0]
        assert best_candidates(scores, allowed, 1).tolist() == [[0]]

    def test_gives_all_tokens_where_there_are_few(self) -> None:
        assert best_candidates(torch.tensor([[0.0, 1, 1]]), torch.tensor([4, 6, 7]), 16).tolist() == [[6, 7, 4]]

    def test_agrees_with_a_stable_sort_where_many_are_equal(self) -> None:
        scores = torch.randint(0, 4, (3, 2, 40), generator=torch.Generator().manual_seed(0)).float()
        tokens = torch.arange(40) * 3
        expected = tokens[scores.sort(dim=-1, descending=True, stable=True).indices[..., :7]]
        assert torch.equal(best_candidates(scores, tokens, 7), expected)
