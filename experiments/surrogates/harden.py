"""Makes the file for ``LabelConsistent`` with ``harden: pgd``: pictures that a surrogate no longer recognizes."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.attacks import LabelConsistent
from datamodules.attacks.hardened import Hardened, HardenedPictures
from datamodules.pairs import PairsDataModule
from datamodules.usage_error import UsageError
from experiments.surrogates.surrogate import Surrogate
from lightning_modules.adversarial import Norm, pgd

DEFAULT_RADIUS = {'linf': 8.0, 'l2': 300 / 255}  # BackdoorBench in units of 1/255; Turner et al. in units of 1
STEP_SHARE_OF_RADIUS = 1.5 / 8  # as in BackdoorBench


def remove_trigger(data: PairsDataModule, name: str) -> str:
    """Removes the trigger of an attack, so that ``setup`` leaves its pictures clean.

    Args:
        data: Data before ``setup``.
        name: Name of the attack.

    Returns:
        Path of the file that the attack is configured to read.

    Raises:
        UsageError: If there is no such attack, or it is not hardened.
    """
    attack = data.attacks.get(name)
    if not isinstance(attack, LabelConsistent) or attack.hardened is None:
        raise UsageError(
            f'attack must name a LabelConsistent with harden: pgd, got {name!r}; '
            f'data.attacks has {", ".join(data.attacks) or "none"}.'
        )
    attack.trigger = None
    return attack.hardened


def make_hardened(
    surrogate: Surrogate, name: str, file: str, norm: Norm, radius: float | None, step: float | None, steps: int
) -> None:
    """Moves the pictures of an attack away from their class, writes them, and prints how many are still recognized.

    Args:
        surrogate: Model to mislead, with data set up after :func:`remove_trigger`.
        name: Name of the attack.
        file: Path of the .npz file to write.
        norm: Norm that bounds the change of a picture.
        radius: The bound, in units of 1/255 for ``linf`` and of 1 for ``l2``; that of the papers if ``None``.
        step: Step size in the same units; 1.5/8 of the radius if ``None``.
        steps: Number of steps.

    Raises:
        UsageError: If a number is out of range, or the attack is switched off.
    """
    radius = DEFAULT_RADIUS[norm] if radius is None else radius
    step = STEP_SHARE_OF_RADIUS * radius if step is None else step
    if radius <= 0 or step <= 0 or steps < 1:
        raise UsageError(f'radius and step must be positive and steps 1 or more, got {radius}, {step} and {steps}.')
    poisons = surrogate.data.manifest.poisons(name)
    if not poisons:
        raise UsageError(f'attack {name!r} is switched off: set its rate or count.')
    clean, shown = surrogate.data.images(surrogate.data.manifest.rows(name)), np.array([p.target for p in poisons])
    unit = 1 / 255 if norm == 'linf' else 1.0
    hardened = _harden(surrogate, clean, shown, radius * unit, step * unit, steps, norm)
    settings = {'norm': norm, 'radius': radius, 'step': step, 'steps': steps, 'surrogate': surrogate.hash_weights()}
    HardenedPictures.of(clean, hardened, poisons, settings).save(file)
    before, after = ((surrogate.classify(pictures) == shown).mean() for pictures in (clean, hardened))
    print(f'{file}: {len(poisons)} pictures of attack {name!r}, SHA-256 {Hardened(file).parameters()["sha256"]}')
    print(f'recognized by the surrogate: {before:.1%} before, {after:.1%} after')


def _harden(
    surrogate: Surrogate, clean: np.ndarray, shown: np.ndarray, radius: float, step: float, steps: int, norm: Norm
) -> np.ndarray:
    """The pictures after :func:`pgd`: uint8 (n, 3, h, w). Rounding may add a change of half of 1/255."""
    parts = []
    for rows in np.array_split(np.arange(len(clean)), -(-len(clean) // surrogate.data.eval_batch_size)):
        label = torch.from_numpy(shown[rows]).to(surrogate.device)

        def loss(pixels: Tensor, label: Tensor = label) -> Tensor:
            return F.cross_entropy(surrogate.logits(pixels), label, reduction='sum')

        moved = pgd(surrogate.pixels(clean[rows]), loss, radius, step, steps, norm)
        parts.append((255 * moved).round().byte().cpu().numpy())
    return np.concatenate(parts)
