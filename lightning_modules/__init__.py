"""What is trained: CLIP and each defense as a LightningModule."""

from lightning_modules.clip import CLIP
from lightning_modules.safeclip import SafeCLIP

__all__ = ['CLIP', 'SafeCLIP']
