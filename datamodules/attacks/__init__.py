"""Attacks on the training pairs, for use as a library; the command finds a new file here by itself."""

from datamodules.attacks.backdoor import Backdoor
from datamodules.attacks.badnet import BadNet
from datamodules.attacks.base import Attack, AttackPool, Goal, Manifest, Pixels, Poison, Poisoning
from datamodules.attacks.blended import Blend, Blended
from datamodules.attacks.class_swap import ClassSwap
from datamodules.attacks.hardened import Hardened
from datamodules.attacks.hybrid import Chain, HybridTrigger
from datamodules.attacks.interpolation import InterpolationPoison
from datamodules.attacks.label_consistent import LabelConsistent
from datamodules.attacks.nashville import Nashville, PhotoFilter
from datamodules.attacks.no_op import NoOpTrigger, Unchanged
from datamodules.attacks.optimized_patch import OptimizedPatch, PicturePatch
from datamodules.attacks.parallel import ParallelTriggers
from datamodules.attacks.poisoned_table import poison_table
from datamodules.attacks.published import CleanCLIPPoison, ListedDots, PoisonInfo
from datamodules.attacks.sinusoid import Sinusoid, Waves
from datamodules.attacks.stripes import StripedSheet, Stripes
from datamodules.attacks.targeted import TargetedPoison
from datamodules.attacks.text_trigger import LoneWord, TextTrigger
from datamodules.attacks.text_watermark import TextWatermark, Watermark
from datamodules.attacks.triggers import Patch, Trigger
from datamodules.attacks.unimodal import UnimodalBackdoor
from datamodules.attacks.wanet import WaNet, WaNetNoise, Warp

__all__ = [
    'Attack',
    'AttackPool',
    'Backdoor',
    'BadNet',
    'Blend',
    'Blended',
    'Chain',
    'ClassSwap',
    'CleanCLIPPoison',
    'Goal',
    'Hardened',
    'HybridTrigger',
    'InterpolationPoison',
    'LabelConsistent',
    'ListedDots',
    'LoneWord',
    'Manifest',
    'Nashville',
    'NoOpTrigger',
    'OptimizedPatch',
    'ParallelTriggers',
    'Patch',
    'PhotoFilter',
    'PicturePatch',
    'Pixels',
    'Poison',
    'PoisonInfo',
    'Poisoning',
    'Sinusoid',
    'StripedSheet',
    'Stripes',
    'TargetedPoison',
    'TextTrigger',
    'TextWatermark',
    'Trigger',
    'Unchanged',
    'UnimodalBackdoor',
    'WaNet',
    'WaNetNoise',
    'Warp',
    'Watermark',
    'Waves',
    'poison_table',
]
