"""Searches the words that lower CLIP's loss most when they are put into the captions of a batch (MEM, 2024).

HotFlip proposes candidates, the loss itself decides. Replacing the caption of one pair changes one column of the
similarities, so that the exact loss of every candidate of every pair costs one text pass and no image pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lightning_modules.losses import info_nce

Losses = Callable[[Tensor], Tensor]


@torch.no_grad()  # a gradient of the scale would keep all similarities
def batch_losses(image: Tensor, text: Iterable[Tensor], logit_scale: Tensor) -> Tensor:
    """CLIP's loss of a batch with each of several sets of captions, (m,), one after the other.

    Args:
        image: Unit-norm embeddings, (B, D).
        text: Unit-norm embeddings of the captions of each of m sets, (B, D).
        logit_scale: Inverse temperature, scalar.
    """
    return torch.stack([info_nce(image, captions, logit_scale) for captions in text])


@torch.no_grad()
def replaced_losses(image: Tensor, text: Tensor, logit_scale: Tensor, options: Tensor, first: int = 0) -> Tensor:
    """CLIP's loss of a batch when one pair has another caption, for each of some captions of each of some pairs.

    Args:
        image: Unit-norm embeddings, (B, D).
        text: Unit-norm embeddings of the present captions, (B, D).
        logit_scale: Inverse temperature, scalar.
        options: Unit-norm embeddings of other captions of b pairs, (b, m, D).
        first: Index in the batch of the first of the b pairs.

    Returns:
        Losses, (b, m): the same as if each were computed from all similarities anew.
    """
    logits = logit_scale * image @ text.T  # (B, B)
    own = slice(first, first + len(options))
    others, diagonal, to_image = leave_one_out(logits)[:, own].T, logits.diagonal(), logits.logsumexp(0)
    column = logit_scale * options @ image.T  # (b, m, B): what takes the place of the pair's column
    match = column.gather(2, _positions(options, first)).squeeze(2)  # of the pair's own image
    to_text = torch.logaddexp(others[:, None], column).sum(2)
    kept = (to_image.sum() - to_image[own] - 2 * (diagonal.sum() - diagonal[own]))[:, None]
    return (to_text + column.logsumexp(2) + kept - 2 * match) / (2 * len(image))


def _positions(options: Tensor, first: int) -> Tensor:
    positions = torch.arange(first, first + len(options), device=options.device)
    return positions[:, None, None].expand(-1, options.shape[1], 1)


def leave_one_out(logits: Tensor) -> Tensor:
    """The log-sum-exp of each row without each of its entries in turn, (B, B); not by subtraction, which would cancel.

    Example:
        >>> leave_one_out(torch.tensor([[1.0, 2.0], [80.0, -80.0]])).tolist()
        [[2.0, 1.0], [-80.0, 80.0]]
    """
    nothing = torch.full_like(logits[:, :1], -torch.inf)
    before = torch.cat([nothing, logits.logcumsumexp(1)[:, :-1]], 1)
    after = torch.cat([nothing, logits.flip(1).logcumsumexp(1)[:, :-1]], 1).flip(1)
    return torch.logaddexp(before, after)


# --- beams ------------------------------------------------------------------------------------------------------------


def replace_token(trigger: Tensor, candidates: Tensor, slot: int) -> Tensor:
    """Each trigger as it is, then with each candidate in one slot.

    Args:
        trigger: Triggers, (..., w, n).
        candidates: Candidates for the slot, (..., k).
        slot: The slot.

    Returns:
        Triggers, (..., w * (k + 1), n); the first w are unchanged.
    """
    k = candidates.shape[-1]
    replaced = trigger.unsqueeze(-3).expand(*trigger.shape[:-2], k, *trigger.shape[-2:]).clone()
    replaced[..., slot] = candidates.unsqueeze(-1)
    return torch.cat([trigger, replaced.flatten(-3, -2)], -2)


def search_by_rank(trigger: Tensor, candidates: Tensor, losses: Losses, beam: int = 1) -> Tensor:
    """Puts every pair's candidate of one rank into a slot, the rank with the lowest loss of the batch, slot by slot.

    As in MEM's released code, where the beam has one entry.

    Args:
        trigger: Present triggers, int64 (B, n).
        candidates: Candidates of each pair for each slot, best first, int64 (B, n, k).
        losses: Maps triggers (m, B, n) to the loss of the batch with each of them, (m,).
        beam: Triggers of the batch that are kept from slot to slot.

    Returns:
        Triggers, int64 (B, n); their loss is never above that of the present ones.
    """
    beams = trigger[None]
    for slot in range(trigger.shape[1]):
        options = replace_token(beams.transpose(0, 1), candidates[:, slot], slot).transpose(0, 1)  # (m, B, n)
        measured = losses(options)
        is_copy = (options[..., slot] == trigger[:, slot]).all(1).nonzero().flatten()[len(beams) :]
        measured = measured.index_fill(0, is_copy, torch.inf)
        beams = options[measured.argsort(stable=True)[:beam]]  # of equal ones the unchanged
    return beams[0]


def search_by_pair(trigger: Tensor, candidates: Tensor, losses: Losses, beam: int = 1) -> Tensor:
    """Searches the best trigger of each pair by itself, slot by slot, while the others keep theirs.

    Args:
        trigger: Present triggers, int64 (b, n).
        candidates: Candidates of each pair for each slot, int64 (b, n, k).
        losses: Maps triggers (b, m, n) to the loss of the batch when a pair alone has each of its m, (b, m).
        beam: Triggers of a pair that are kept from slot to slot.

    Returns:
        Triggers, int64 (b, n). Together they may raise the loss, see :func:`accept_best`.
    """
    beams = trigger[:, None]
    for slot in range(trigger.shape[1]):
        options = replace_token(beams, candidates[:, slot], slot)  # (b, m, n)
        is_copy = options[..., slot] == trigger[:, slot, None]
        is_copy[:, : beams.shape[1]] = False
        order = losses(options).masked_fill(is_copy, torch.inf).argsort(dim=1, stable=True)[:, :beam]
        beams = options.gather(1, order[..., None].expand(-1, -1, trigger.shape[1]))
    return beams[:, 0]


def accept_best(image: Tensor, old: Tensor, new: Tensor, logit_scale: Tensor, unit: Tensor) -> Tensor:
    """Which pairs take their new caption, bool (B,), so that the loss of the batch does not rise.

    Captions that lower the loss one at a time can raise it together. So the units are ranked by what their pairs gain
    alone, and of none, the first, the first 2, 4, 8 ... of them the number with the lowest loss is taken.

    Args:
        image: Unit-norm embeddings, (B, D).
        old: Unit-norm embeddings of the present captions, (B, D).
        new: Unit-norm embeddings of the new ones, (B, D).
        logit_scale: Inverse temperature, scalar.
        unit: Pairs of one number share a trigger: all of them take theirs, or none does. From 0 on, int64 (B,).
    """
    change = replaced_losses(image, old, logit_scale, new[:, None])[:, 0] - batch_losses(image, [old], logit_scale)
    rank = change.new_zeros(int(unit.max()) + 1).index_add(0, unit, change).argsort(stable=True).argsort()
    counts = [0, *(2**power for power in range(len(rank).bit_length())), len(rank)]
    is_new = rank[unit] < torch.tensor(counts, device=rank.device)[:, None]  # (m, B)
    mixed = (torch.where(taken[:, None], new, old) for taken in is_new)
    return is_new[batch_losses(image, mixed, logit_scale).argmin()]
