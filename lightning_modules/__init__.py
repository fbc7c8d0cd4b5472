"""What is trained: CLIP and each defense as a LightningModule."""

from lightning_modules.abd import ABD
from lightning_modules.cleanclip import CleanCLIP
from lightning_modules.clip import CLIP
from lightning_modules.par import PAR
from lightning_modules.roclip import RoCLIP
from lightning_modules.safeclip import SafeCLIP
from lightning_modules.supervised import SupervisedFinetuning

__all__ = ['ABD', 'CLIP', 'PAR', 'CleanCLIP', 'RoCLIP', 'SafeCLIP', 'SupervisedFinetuning']
