"""Retrieval: how well held-out captions are found by their pictures, and pictures by their captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import lightning as L
import numpy as np
import pyarrow as pa
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from callbacks.at_evaluation import AtEvaluation
from callbacks.intervals import wilson_interval
from callbacks.metric_names import Direction, RetrievalQuantity, asr_metric, retrieval_metric
from callbacks.retrieval_attacks import AttackedPictures, CaptionPool, measure_success
from callbacks.retrieval_ranks import (
    Ranks,
    hit_rate,
    mean_rank,
    rank_both_ways,
    rank_quantile,
    right_captions,
    tied_share,
)
from callbacks.sweep import Embeddings, embed_pairs
from datamodules.contracts import Truth, truth_of
from datamodules.rows.draws import permutation
from datamodules.rows.table import UNKNOWN, PairTable, Strings
from datamodules.usage_error import check_number

NEAREST = (1, 5, 10)
BAND = (0.025, 0.975)  # of the permutations
Measured = dict[tuple[Direction, RetrievalQuantity], float]
SEED = 0  # of the permutations, which are the same in every run and epoch


class Retrieval(AtEvaluation):
    """Logs at each evaluation how well the captions and pictures of each set of held-out pairs find each other.

    Every held-out picture is compared with every held-out caption, in both directions: ``i2t`` from picture to text,
    ``t2i`` from text to picture. A picture may have several captions; the rank of a query is that of its best right
    answer. Pictures with the same reference are one picture, and captions with the same words are both right. Logged
    as ``retrieval/<set>/<direction>_<quantity>``:

    - ``r1``, ``r5``, ``r10``: share of the queries with a right answer among the 1, 5 or 10 most similar candidates;
    - ``medr``, ``meanr``: median and mean of the ranks, from 1;
    - ``r1_low``, ``r1_high`` and so on for ``r5``, ``r10`` and ``medr``: 95 % intervals, for which a picture counts as
      one trial however many captions it has;
    - ``medr_chance``, ``r10_chance``, each with ``_low`` and ``_high``: mean and 95 % band of the same with the
      pictures permuted at random, which keeps how similar captions are to each other and pictures to all captions;
    - ``above_chance``: (``medr_chance`` - ``medr``) / ``medr_chance``, 0 for chance and near 1 for a perfect model;
    - ``tied``: share of the queries with a wrong candidate exactly as similar as the best right answer.

    The pictures of attacks are compared with the same captions. Success is a caption that names the attack's target
    among the most similar ones; pictures that show the target do not count. Logged for each attack as
    ``asr_retrieval/<attack>/<quantity>``:

    - ``rate``, ``low``, ``high``, ``hits`` and ``n``: rate of success, ends of its 95 % Wilson interval, successes, and
      pictures;
    - ``clean``: rate of clean held-out pictures that do not show the target, the mean over the pictures of the attack;
    - ``recall`` and ``recall_n``: rate of clean pictures that do show a target, the mean over targets, and how many
      there are.

    Nothing is logged without held-out pairs. Pictures that cannot be read, or that attacks take from the held-out
    ones, are left out.

    Args:
        by_class: Call every caption right that is of a picture of the same class, such as all captions that name the
            same person. Captions of pictures of unknown class are still right by their words.
        permutations: Number of permutations that show what chance reaches.
        attack_top: How many of the most similar captions an attack succeeds with.
    """

    def __init__(self, by_class: bool = False, permutations: int = 100, attack_top: int = 1) -> None:
        check_number('callbacks.retrieval.permutations', permutations, '[1, inf)')
        check_number('callbacks.retrieval.attack_top', attack_top, '[1, inf)')
        self.by_class, self.permutations, self.attack_top = by_class, permutations, attack_top
        self.attacked = AttackedPictures()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != 'predict' and not truth_of(trainer).heldout_sets:
            rank_zero_info('Retrieval is not measured: the data holds out no pairs.')

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.attacked = AttackedPictures()

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        truth = truth_of(trainer)
        if truth.heldout is not None and truth.evaluation_sets[dataloader_idx].kind == 'asr':
            self.attacked.add(dataloader_idx, outputs['image'], batch)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end

    def measure(self, trainer: L.Trainer, module: L.LightningModule) -> dict[str, float]:
        sets = truth_of(trainer).heldout_sets
        measured = [self._measure(trainer, module, name) for name, heldout in sets.items() if len(heldout.rows)]
        return {metric: value for metrics in measured for metric, value in metrics.items()}

    def _measure(self, trainer: L.Trainer, module: L.LightningModule, name: str) -> dict[str, float]:
        truth = truth_of(trainer)
        table, _, rows = truth.heldout_sets[name]
        embedded = embed_pairs(trainer, module, truth.heldout_dataloader(name), len(table), 'retrieval')
        embedded, pairs = Embeddings(*(part[rows] for part in embedded)), table.take(rows)
        say_unembedded(name, embedded)
        device = module.device if module.device.type == 'cuda' else 'cpu'  # others may lack float64
        measured = measure_retrieval(embedded, pairs, self.by_class, self.permutations, device)
        metrics = {retrieval_metric(name, *what): value for what, value in measured.items()}
        if truth.heldout is not None and name == truth.heldout_name:
            metrics |= self._measure_attacks(truth, module, pairs, embedded, device)
        return metrics

    def _measure_attacks(
        self,
        truth: Truth,
        module: L.LightningModule,
        pairs: PairTable,
        embedded: Embeddings,
        device: torch.device | str,
    ) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for index, attacked in self.attacked.gather(module).items():
            attack = truth.evaluation_sets[index]
            pool = CaptionPool(pairs, embedded, number_pictures(pairs), attack.classes, device)
            success = measure_success(attacked, pool, self.attack_top)
            metrics |= {asr_metric(attack.name, what, 'retrieval'): value for what, value in success.items()}
        return metrics


def measure_retrieval(
    embedded: Embeddings, pairs: PairTable, by_class: bool, permutations: int, device: str | torch.device = 'cpu'
) -> Measured:
    """The quantities of :class:`Retrieval` in both directions, from the embeddings (N, D) of N pairs."""
    picture, meaning = number_pictures(pairs), number_meanings(pairs, by_class)
    _, first = np.unique(picture, return_index=True)
    image, text = (torch.from_numpy(part).to(device) for part in (embedded.image[first], embedded.text))
    drawn = [permutation(len(first), SEED, number) for number in range(permutations)]
    orders = np.stack([np.arange(len(first)), *drawn])
    both = rank_both_ways(image, text, right_captions(picture, meaning), orders)
    directions: tuple[Direction, ...] = ('i2t', 't2i')
    summaries = [summarize(ranks, len(first)) for ranks in both]
    return {(way, what): x for way, each in zip(directions, summaries, strict=True) for what, x in each.items()}


def summarize(ranks: Ranks, trials: int) -> dict[RetrievalQuantity, float]:
    """The quantities of one direction.

    Args:
        ranks: Ranks with the true answers and, after them, with those of each permutation.
        trials: Number of independent trials that intervals are for.
    """
    true, chance = (Ranks(*(part[rows] for part in ranks)) for rows in (slice(1), slice(1, None)))
    rate = {k: float(hit_rate(true, k)) for k in NEAREST}
    summary = {f'r{k}': rate[k] for k in NEAREST}
    summary |= {'medr': float(rank_quantile(true, 0.5)), 'meanr': float(mean_rank(true))}
    for k in NEAREST:
        summary |= _ends(f'r{k}', wilson_interval(rate[k] * trials, trials))
    shares = wilson_interval(trials / 2, trials)  # the order statistics between which the median lies
    summary |= _ends('medr', [float(rank_quantile(true, share)) for share in shares])
    for name, values in {'medr': rank_quantile(chance, 0.5), 'r10': hit_rate(chance, 10)}.items():
        ends = values.quantile(values.new_tensor(BAND)).tolist()
        summary |= {f'{name}_chance': float(values.mean()), **_ends(f'{name}_chance', ends)}
    summary['above_chance'] = 1 - summary['medr'] / summary['medr_chance']
    return cast('dict[RetrievalQuantity, float]', summary | {'tied': float(tied_share(true))})


def _ends(name: str, interval: Sequence[float]) -> dict[str, float]:
    low, high = interval
    return {f'{name}_low': low, f'{name}_high': high}


# --- what is the same -----------------------------------------------------------------------------------------------


def number_pictures(pairs: PairTable) -> NDArray[np.int64]:
    """Number of the picture of each pair, in the order of their first pairs, (N,); one for pairs of one reference."""
    return _numbered(pairs.image)


def number_meanings(pairs: PairTable, by_class: bool) -> NDArray[np.int64]:
    """Number of what each caption says, (N,): equal for equal words or, on demand, for pictures of one class."""
    words = _numbered(pairs.caption)
    if not by_class:
        return words
    return np.where(pairs.label == UNKNOWN, words + len(pairs.classes), pairs.label).astype(np.int64)


def _numbered(column: Strings) -> NDArray[np.int64]:
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return whole.dictionary_encode().indices.to_numpy().astype(np.int64)


def say_unembedded(name: str, embedded: Embeddings) -> None:
    """Logs how many pictures and captions of a diverged model have no finite embedding."""
    images, texts = (int((~np.isfinite(part).all(1)).sum()) for part in embedded)
    if images or texts:
        rank_zero_info(
            f'{name}: of {len(embedded.text)} pairs, {images} have no finite embedding of the picture and {texts} none '
            f'of the caption; as queries these come in last, and as candidates they are ahead of all others.'
        )
