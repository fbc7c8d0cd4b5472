"""Attack success through retrieval: how often a picture of an attack finds a caption that names the attack's target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor

from callbacks.intervals import wilson_interval
from callbacks.metric_names import AsrQuantity
from callbacks.retrieval_ranks import Ranks, hit_rate, rank_answers
from callbacks.sweep import Embeddings
from datamodules.evaluation.sets import EvalBatch
from datamodules.rows.table import PairTable
from datamodules.text.class_search import mentions, without_longer_names

if TYPE_CHECKING:
    from scipy.sparse import csr_array

UNCOUNTED = -1  # in place of the target of a picture that shows it, or that pads a batch


class Attacked(NamedTuple):
    """Pictures of an attack.

    Attributes:
        image: Unit-norm embeddings, (n, D).
        target: The class that the attack wants for each, or ``UNCOUNTED``, (n,).
    """

    image: Tensor
    target: Tensor


class AttackedPictures:
    """Collects the embeddings that an evaluation makes of the pictures of attacks, so that none is embedded twice."""

    def __init__(self) -> None:
        self.batches: dict[int, list[Attacked]] = {}

    def add(self, index: int, image: Tensor, batch: EvalBatch) -> None:
        """Adds the embeddings (B, D) of a batch of the evaluation set with this index."""
        counts = batch.valid & (batch.label != batch.target)
        self.batches.setdefault(index, []).append(Attacked(image.float(), batch.target.where(counts, UNCOUNTED)))

    def gather(self, module: L.LightningModule) -> dict[int, Attacked]:
        """Pictures of each set that count, of all processes; each process has as many batches as the others."""
        gathered = {}
        for index, batches in sorted(self.batches.items()):
            parts: Any = (module.all_gather(torch.cat(part)) for part in zip(*batches, strict=True))
            image, target = parts
            counts = target.flatten() != UNCOUNTED
            gathered[index] = Attacked(image.flatten(0, -2)[counts], target.flatten()[counts])
        return gathered


class CaptionPool:
    """Captions to choose from, with the clean pictures that they belong to.

    Args:
        pairs: The pairs, in the order of the embeddings.
        embedded: Embeddings of the N pairs.
        picture: Number of the picture of each pair, (N,).
        classes: Class names that targets point into.
        device: Where to compute.
    """

    def __init__(
        self,
        pairs: PairTable,
        embedded: Embeddings,
        picture: NDArray[np.int64],
        classes: Sequence[str],
        device: str | torch.device = 'cpu',
    ) -> None:
        self.pairs, self.picture, self.classes = pairs, picture, classes
        _, first = np.unique(picture, return_index=True)
        self.image, self.text = (torch.from_numpy(part).to(device) for part in (embedded.image[first], embedded.text))

    def names(self, target: int) -> NDArray[np.bool_]:
        """Whether each caption names a class, (N,)."""
        name, captions = self.classes[target], self.pairs.caption
        rows = np.flatnonzero(mentions(captions, name))
        return np.isin(np.arange(len(self.pairs)), without_longer_names(rows, captions, name, self.classes))

    def shows(self, target: int) -> NDArray[np.bool_]:
        """Whether each picture shows a class, by its label or by any of its captions, (P,)."""
        label = np.array([*self.pairs.classes, ''])[self.pairs.label]  # an unknown one, -1, reads the last entry
        is_shown = self.names(target) | (label == self.classes[target])
        return np.isin(np.arange(len(self.image)), self.picture[is_shown])


def measure_success(attacked: Attacked, pool: CaptionPool, top: int = 1) -> dict[AsrQuantity, float]:
    """How often the pictures of an attack find a caption that names their target, and how often clean ones do.

    Pictures with a target that no caption names are left out. Captions that are equally similar are taken in every
    order, each as likely as the others, so hits may be fractions.

    Args:
        attacked: The pictures of the attack.
        pool: The captions, and the clean pictures to compare with.
        top: How many of the most similar captions to look at.

    Returns:
        The quantities of ``asr_retrieval/<attack>``, see :class:`callbacks.retrieval.Retrieval`; none if no picture is
        left.
    """
    from scipy.sparse import csr_array  # takes a second to import

    named = {target: pool.names(target) for target in np.unique(attacked.target.cpu()).tolist()}
    answers = {target: captions for target, captions in named.items() if captions.any()}
    if len(answers) < len(named):
        missing = ', '.join(sorted(pool.classes[target] for target in named.keys() - answers.keys()))
        rank_zero_info(f'no held-out caption names {missing}: success through retrieval is not measured for it.')
    is_named = torch.isin(attacked.target, torch.tensor([*answers], device=attacked.target.device))
    image, target = attacked.image[is_named].to(pool.text.device), attacked.target[is_named].cpu().numpy()
    if not len(target):
        return {}
    right = csr_array(np.stack([*answers.values()]))  # (targets, N)
    place = np.searchsorted([*answers], target)
    hits = float(hit_rate(rank_answers(image, pool.text, [lambda rows: right[place[rows]]]), top)) * len(target)
    low, high = wilson_interval(min(hits, len(target)), len(target))
    values: dict[AsrQuantity, float] = {'rate': hits / len(target), 'low': low, 'high': high}
    return {**values, 'hits': hits, 'n': len(target), **_measure_clean(pool, right, [*answers], place, top)}


def _measure_clean(
    pool: CaptionPool, right: csr_array, targets: Sequence[int], place: NDArray[np.int64], top: int
) -> dict[AsrQuantity, float]:
    """The same of clean pictures that do not show the target (``clean``) and of those that do (``recall``).

    Args:
        pool: Captions and clean pictures.
        right: Which captions name each target, (targets, N).
        targets: The targets.
        place: Number of the target of each picture of the attack.
        top: How many of the most similar captions to look at.
    """
    answers = [lambda rows, number=number: right[np.full(len(rows), number)] for number in range(len(targets))]
    ranks = rank_answers(pool.image, pool.text, answers)
    shown = np.stack([pool.shows(target) for target in targets])  # (targets, P)
    of_others, of_own = (
        np.array([_rate(ranks, number, which[number], top) for number in range(len(targets))])
        for which in (~shown, shown)
    )
    values: dict[AsrQuantity, float] = {}
    if not np.isnan(of_others[place]).any():
        values['clean'] = float(of_others[place].mean())
    if shown.any():
        values |= {'recall': float(np.nanmean(of_own)), 'recall_n': int(shown.sum())}
    return values


def _rate(ranks: Ranks, number: int, which: NDArray[np.bool_], top: int) -> float:
    """Share of some queries that find a right answer of one assignment; NaN if there are none."""
    chosen = Ranks(*(part[number : number + 1, torch.from_numpy(which)] for part in ranks))
    return float(hit_rate(chosen, top)) if which.any() else np.nan
