"""The inspection of ``clipward inspect`` at the end of a training, for runs whose checkpoints are not kept."""

from __future__ import annotations

from typing import Any, cast

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.seed import isolate_rng

from callbacks.harmless import Harmless
from callbacks.measuring import agree_on_batch_norm, evaluating
from callbacks.metric_names import inspection_metric
from datamodules.pairs import PairsDataModule
from datamodules.usage_error import UsageError, check_number
from experiments.inspection import (
    WORDS,
    Inspection,
    check_classes,
    check_searches,
    inspect_model,
    judge,
    read_clean_pictures,
)
from experiments.surrogates.surrogate import Surrogate
from lightning_modules.clip import CLIP


class Inspector(Callback):
    """Looks for a backdoor in the trained model, from held-out pictures and class names; a measurement, no defense.

    With its last epoch, training logs ``inspect/verdict``: 0 for no sign of a backdoor, 1 for suspicious, 2 for
    backdoored. Of the trigger that says most, it logs ``inspect/target``, the number of its class, ``inspect/success``,
    ``inspect/z`` and ``inspect/p_value``, and ``inspect/seconds`` of all.

    Args:
        pictures: Clean pictures to use, at most.
        patch: Side of the patch that is looked for, as a share of the side of a picture.
        perturbation: Root mean square of the perturbation that is looked for, in units of 1/255.
        steps: Steps of each search.
        batch: Pictures of a step for each class.
        seed: Seed of all draws.
    """

    def __init__(
        self,
        pictures: int = 200,
        patch: float = 0.25,
        perturbation: float = 4.0,
        steps: int = 200,
        batch: int = 8,
        seed: int = 0,
    ) -> None:
        check_number('pictures', pictures, '[2, inf)')
        check_searches(patch, perturbation, steps, batch)
        self.pictures, self.patch, self.perturbation = pictures, patch, perturbation
        self.steps, self.batch, self.seed = steps, batch, seed
        self.harmless = Harmless('inspecting the model', 'nothing is known about backdoors in it')

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data: PairsDataModule = cast(Any, trainer).datamodule
        check_classes(data)
        if data.heldout is None:
            raise UsageError('Inspector needs clean pictures, and the data holds none out: leave it out.')

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch + 1 != trainer.max_epochs:
            return
        agree_on_batch_norm(trainer, pl_module)
        metrics: dict[str, float] = {}
        if trainer.is_global_zero:
            with self.harmless, isolate_rng(), evaluating(pl_module):
                metrics = clearest(self._inspect(cast(CLIP, pl_module), cast(Any, trainer).datamodule))
        pl_module.log_dict(trainer.strategy.broadcast(metrics), sync_dist=True)

    def _inspect(self, model: CLIP, data: PairsDataModule) -> Inspection:
        pictures = read_clean_pictures(data, None, self.pictures, self.seed)
        surrogate = Surrogate(model, data)
        return inspect_model(surrogate, pictures, self.patch, self.perturbation, self.steps, self.batch, self.seed)


def clearest(inspection: Inspection) -> dict[str, float]:
    """The verdict on a model and the figures of the finding that says most, by the names of metrics."""
    word, finding = judge(inspection.findings)
    classes = list(dict.fromkeys(each.target for each in inspection.findings))
    values = {
        'verdict': WORDS.index(word),
        'target': classes.index(finding.target),
        'success': finding.success,
        'z': finding.z,
        'p_value': finding.p_value,
        'seconds': inspection.seconds,
    }
    return {inspection_metric(what): float(value) for what, value in values.items()}
