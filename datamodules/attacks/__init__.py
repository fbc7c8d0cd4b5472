"""Attacks on the training pairs. A new one is a file here and a line below, which makes its name known to YAML."""

from datamodules.attacks.backdoor import Backdoor
from datamodules.attacks.badnet import BadNet
from datamodules.attacks.base import Attack, AttackPool, Manifest, Pixels, Poison, poisoned
from datamodules.attacks.targeted import TargetedPoison
from datamodules.attacks.triggers import Patch, Trigger

__all__ = [
    'Attack',
    'AttackPool',
    'Backdoor',
    'BadNet',
    'Manifest',
    'Patch',
    'Pixels',
    'Poison',
    'TargetedPoison',
    'Trigger',
    'poisoned',
]
