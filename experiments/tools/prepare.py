"""Model and data of a tool, ready for use."""

from __future__ import annotations

import torch

from datamodules.pairs import PairsDataModule
from experiments.surrogates.surrogate import Surrogate, load_trained
from lightning_modules.clip import CLIP


def prepare_data_for(model: CLIP, data: PairsDataModule) -> PairsDataModule:
    """Decodes, poisons and tokenizes the pairs as a run of this model would."""
    data.adapt_to(model)
    data.prepare_data()
    data.setup('validate')
    return data


def prepare_data_to_score(model: CLIP, data: PairsDataModule) -> PairsDataModule:
    """The same without canaries, which are no pairs of the user's."""
    data.adapt_to(model)
    data.prepare_data()
    data.setup('predict')
    return data


def clean_surrogate(model: CLIP, data: PairsDataModule, ckpt_path: str | None, device: torch.device) -> Surrogate:
    """A trained model with clean pairs; an attack on them may need the very file that is being made."""
    surrogate = load_trained(model, ckpt_path, device)
    data.attacks = {}
    return Surrogate(surrogate, prepare_data_for(model, data))
