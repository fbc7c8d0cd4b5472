"""Lightning's trainer, with what the command does beside training: each method is a subcommand."""

from __future__ import annotations

import lightning as L

from datamodules.pairs import PairsDataModule
from lightning_modules.clip import CLIP


class Trainer(L.Trainer):
    """Its further methods look at a run's data and model, or prepare files for attacks; none of them trains the model.

    Arguments of a method, beside model and datamodule, are options of the subcommand of its name.
    """


def laid_out(model: CLIP, data: PairsDataModule) -> PairsDataModule:
    """The data as a run of this model would have it: decoded, poisoned, tokenised."""
    data.image_size = data.image_size or model.image_size
    data.context_length = data.context_length or model.context_length
    data.prepare_data()
    data.setup('validate')
    return data
