"""What is trained: CLIP, each defense, and what makes pairs unlearnable, as a LightningModule."""

from lightning_modules.abd import ABD
from lightning_modules.cleanclip import CleanCLIP
from lightning_modules.clip import CLIP
from lightning_modules.par import PAR
from lightning_modules.roclip import RoCLIP
from lightning_modules.safeclip import SafeCLIP
from lightning_modules.supervised import SupervisedFinetuning
from lightning_modules.unlearnable import EM, MEM, UAP

__all__ = ['ABD', 'CLIP', 'EM', 'MEM', 'PAR', 'UAP', 'CleanCLIP', 'RoCLIP', 'SafeCLIP', 'SupervisedFinetuning']
