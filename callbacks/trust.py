"""Whether canaries are learned: what the defender can see of attacks that it does not know."""

from __future__ import annotations

from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from callbacks.at_evaluation import AtEvaluation
from callbacks.metric_names import canary_metric
from datamodules.contracts import canaries_of
from datamodules.evaluation.sets import EvalBatch

TRIGGERED, PLAIN = 0, 1


class Trust(AtEvaluation):
    """Logs at each evaluation how often pictures with a canary's trigger are taken for what the canary means.

    A picture is taken for the canary whose captions are most similar to it, among those of all canaries. So no labels
    and no class names are needed. Logged if the data has canaries:

    - ``canary/asr/<name>``: share of the pictures with the canary's trigger that are taken for it, of pictures that
      were not planted, or, for repeated pictures, of these themselves;
    - ``canary/clean/<name>``: the same share of pictures without a trigger;
    - ``canary/asr`` and ``canary/clean``: their means over the canaries.

    A canary has been learned where the first is clearly above the second. Attacks as strong as it have then been
    learned too, unless something has kept them out.
    """

    def measure(self, trainer: L.Trainer, module: L.LightningModule) -> dict[str, float]:
        return measure_canaries(trainer, module)


def measure_canaries(trainer: L.Trainer, module: L.LightningModule) -> dict[str, float]:
    """The metrics of :class:`Trust`, the same on all processes; none without canaries."""
    names = tuple(canaries_of(trainer).canary_rows())
    if not names:
        return {}
    hits, pictures = trainer.strategy.reduce(count_hits(trainer, module, len(names)), reduce_op='sum').cpu()
    return canary_metrics(names, hits, pictures)


def count_hits(trainer: L.Trainer, module: L.LightningModule, canaries: int) -> Tensor:
    """Counts, over this process's share of the pictures, those that are taken for their canary, and all.

    Args:
        trainer: The trainer, with its data.
        module: Its module, in evaluation mode.
        canaries: Number C of canaries.

    Returns:
        int64 (2, 2, C): hits and pictures, with a trigger and without, for each canary.
    """
    counts = torch.zeros(2, 2, canaries, dtype=torch.int64, device=module.device)
    data, model = canaries_of(trainer), cast(Any, module)
    with isolate_rng(), trainer.strategy.precision_plugin.forward_context():
        captions = model.classifier(data.canary_prompts())
        for batch in data.canary_dataloader():
            on_device: EvalBatch = trainer.strategy.batch_to_device(batch)
            image = model.encode_image(on_device.image)
            with torch.autocast(module.device.type, enabled=False):  # in bfloat16, similar captions would tie
                add_hits(counts, image @ captions.T, on_device)
    return counts


def add_hits(counts: Tensor, similarity: Tensor, batch: EvalBatch) -> None:
    """Adds the pictures of a batch to the counts.

    Args:
        counts: Counts as :func:`count_hits` returns them, changed in place.
        similarity: Similarity of each picture to the captions of each canary, (B, C). A picture without finite
            similarities is taken for no canary.
        batch: The canary that each picture is for, and whether it carries its trigger.
    """
    is_hit = (similarity.argmax(-1) == batch.target) & similarity.isfinite().all(-1)
    kind = torch.where(batch.label == batch.target, TRIGGERED, PLAIN)
    for which, counted in enumerate((batch.valid & is_hit, batch.valid)):
        counts[which].index_put_((kind, batch.target), counted.long(), accumulate=True)


def canary_metrics(names: tuple[str, ...], hits: Tensor, pictures: Tensor) -> dict[str, float]:
    """Shares of hits by the names of metrics, from hits and pictures by kind and canary, each (2, C)."""
    share = hits / pictures
    metrics: dict[str, float] = {}
    for what, kind in (('asr', TRIGGERED), ('clean', PLAIN)):
        metrics |= {canary_metric(what, name): float(value) for name, value in zip(names, share[kind], strict=True)}
        metrics[canary_metric(what)] = float(share[kind].mean())
    return metrics
