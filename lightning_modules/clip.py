"""CLIP: two towers, one loss; the undefended baseline and what every defense builds on."""

from __future__ import annotations

import math
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from datamodules.contracts import prompts_of
from datamodules.usage_error import UsageError
from lightning_modules.checkpoint_version import add_version, check_version
from lightning_modules.losses import info_nce, one_way
from lightning_modules.schedules import Schedule

MAX_LOGIT_SCALE = math.log(100)  # Radford et al., 2021: keeps the logits from growing without bound


class Pairs(Protocol):
    """The fields of a batch that a training step reads; ``datamodules.pairs.PairBatch`` has them."""

    image: Tensor
    tokens: Tensor
    row: Tensor
    cross_modal: int


class Gathered(NamedTuple):
    """Embeddings of all processes (B, D) and where this process's rows begin among them."""

    rows: Tensor
    first: int


class CLIP(L.LightningModule):
    """Contrastive language-image pre-training (Radford et al., 2021).

    Args:
        architecture: Name of an open_clip model, or the path of a JSON file in open_clip's format. ``RN50`` has GELU
            in its text tower, OpenAI's own has QuickGELU: ``RN50-quickgelu``.
            On several processes a ResNet normalizes over each one's part of a batch, and its loss is not quite that of
            a single process; with ``trainer.sync_batchnorm: true``, which only GPUs can do, it is. Else it is always.
        pretrained: Weights to start from, a file or a tag of open_clip; random if ``None``.
        init_from: Checkpoint of this project whose weights to start from; its settings and progress do not count.
        lr: Peak learning rate of AdamW.
        warmup_steps: Steps of the linear rise; a tenth of all, at most 10,000, if ``None``.
        weight_decay: Decay of matrices; vectors and scalars (norms, biases, the logit scale) have none.
        betas: Decay of AdamW's two moments.
        eps: AdamW's guard against division by zero.
        views: Augmented views of each pair in a step, 1 or 2. With two, view 1 of the image meets view 2 of the
            caption and the other way round.
        channels_last: Memory format of the image tower; faster for convolutions on most hardware.
        compile: Compile the image tower; the first step then takes a while.

    Attributes:
        towers: The open_clip model.
        width: Length D of an embedding.
        untrained: Whether the weights are random until a checkpoint is loaded.
    """

    def __init__(
        self,
        architecture: str = 'RN50',
        pretrained: str | None = None,
        init_from: str | None = None,
        lr: float = 5e-4,
        warmup_steps: int | None = None,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        views: int = 1,
        channels_last: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if views not in (1, 2):
            raise UsageError(f'model.views must be 1 or 2, got {views}.')
        self.architecture, self.lr, self.warmup_steps = architecture, lr, warmup_steps
        self.weight_decay, self.betas, self.eps = weight_decay, betas, eps
        self.views, self.channels_last = views, channels_last
        self.untrained = pretrained is None and init_from is None
        self.towers, self.width = build_towers(architecture, pretrained)
        if init_from is not None:
            load_weights(self, init_from)
        if channels_last:
            self.towers.visual.to(memory_format=torch.channels_last)
        if compile:
            self.towers.visual.compile()
        self.classifiers: list[Tensor] = []

    # --- what the model is ------------------------------------------------------------------------------------------

    @property
    def image_size(self) -> int:
        """Side of the images that the model takes, in pixels."""
        size = self.towers.visual.image_size
        return int(size[0] if isinstance(size, tuple | list) else size)

    @property
    def context_length(self) -> int:
        """Tokens of a caption, start and end included."""
        return int(self.towers.context_length)

    @property
    def logit_scale(self) -> Tensor:
        """Inverse temperature, between 1 and 100."""
        return self.towers.logit_scale.exp()

    def encode_image(self, image: Tensor) -> Tensor:
        """Unit-norm float32 embeddings (B, D) of normalized images (B, 3, H, W)."""
        if self.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        with attention(image.device):
            return F.normalize(self.towers.encode_image(image).float(), dim=-1)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Unit-norm float32 embeddings (B, D) of tokens (B, T)."""
        with attention(tokens.device):
            return F.normalize(self.towers.encode_text(tokens).float(), dim=-1)

    # --- what an epoch trains on ------------------------------------------------------------------------------------

    def phase(self, epoch: int) -> str:
        """Name of the part of the plan that an epoch, counted from 0, belongs to."""
        return 'clip'

    def sides(self, epoch: int) -> dict[str, int]:
        """Views that each side gets in an epoch; a single side takes every pair, whatever the partition says."""
        return {'cross_modal': self.views}

    def training_step(self, batch: Pairs, batch_idx: int) -> dict[str, Tensor]:
        """Trains the first pairs of a batch across modalities, the others within each modality.

        Args:
            batch: Views (V, B, 3, H, W) and (V, B, T); the first ``batch.cross_modal`` pairs are
                trained across modalities.
            batch_idx: Required by Lightning.

        Returns:
            The loss in nats, and the cosine similarity of each pair's first views, (B,), for who wants to watch.
        """
        image, text = self._embed(batch)
        with torch.autocast(self.device.type, enabled=False):
            losses = self.losses(image, text, batch.cross_modal)
        loss = torch.stack(list(losses.values())).sum()
        self.log_dict({f'train/{name}': value for name, value in losses.items()}, batch_size=len(batch.row))
        self.log('train/loss', loss, prog_bar=True, batch_size=len(batch.row))
        return {'loss': loss, 'similarity': (image[0] * text[0]).sum(-1).detach()}

    def losses(self, image: Tensor, text: Tensor, cross_modal: int) -> dict[str, Tensor]:
        """Terms of the loss by name.

        Args:
            image: Embedded views of the images, unit norm, (V, B, D).
            text: Embedded views of the captions, unit norm, (V, B, D).
            cross_modal: The first so many pairs are trained across modalities, the others within each.
        """
        return {'cross_modal': self.cross_modal_loss(image[:, :cross_modal], text[:, :cross_modal])}

    def cross_modal_loss(self, image: Tensor, text: Tensor) -> Tensor:
        """CLIP's loss on one view, or crosswise on two (released ``train.py``), of embeddings (V, b, D)."""
        if self.views == 1:
            image, text = image[:1], text[:1]
        (all_image, first), (all_text, _) = self.gather(image[0]), self.gather(text[-1])
        if self.views == 1:
            return info_nce(image[0], text[0], self.logit_scale, all_image, all_text, first)
        all_image_2 = self.gather(image[1]).rows
        to_text = one_way(image[0], all_text, self.logit_scale, first)
        return (to_text + one_way(text[0], all_image_2, self.logit_scale, first)) / 2

    def gather(self, rows: Tensor) -> Gathered:
        """Rows of all processes, in rank order, with gradient; DDP's mean makes the gradient that of one process."""
        if self.trainer.world_size == 1:
            return Gathered(rows, 0)
        everyone: Any = self.all_gather(rows, sync_grads=torch.is_grad_enabled())  # (W, b, D)
        return Gathered(everyone.flatten(0, 1), self.global_rank * len(rows))

    def _embed(self, batch: Pairs) -> tuple[Tensor, Tensor]:
        """All views through each tower at once: (V, B, ...) -> (V, B, D)."""
        views, pairs = batch.tokens.shape[:2]
        image = self.encode_image(batch.image.flatten(0, 1))
        text = self.encode_text(batch.tokens.flatten(0, 1))
        return image.view(views, pairs, -1), text.view(views, pairs, -1)

    def on_train_epoch_start(self) -> None:
        # Lightning keeps no generator state in a checkpoint; dropout must not depend on where a run was resumed.
        torch.manual_seed(_epoch_seed(self.current_epoch, self.global_rank))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # At the end of a batch the schedule is one step ahead.
        self.log('train/lr', self.trainer.optimizers[0].param_groups[0]['lr'])

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        with torch.no_grad():
            self.towers.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        self.log('train/logit_scale', self.logit_scale.detach())

    # --- optimization -----------------------------------------------------------------------------------------------

    def schedule(self, steps_per_epoch: int, epochs: int) -> Schedule:
        """Learning rate over the peak at each step of a run."""
        return Schedule(steps_per_epoch * epochs, 0, 0, warmup=self.warmup_steps)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        matrices = [p for p in self.parameters() if p.requires_grad and p.ndim >= 2]
        others = [p for p in self.parameters() if p.requires_grad and p.ndim < 2]
        groups = [{'params': matrices, 'weight_decay': self.weight_decay}, {'params': others, 'weight_decay': 0.0}]
        fused = not self.trainer.gradient_clip_val  # Lightning 2.6 cannot clip before a fused step
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=fused)
        epochs = self.trainer.max_epochs
        if not epochs or epochs < 0:
            raise UsageError('trainer.max_epochs must be set: the learning rate follows a plan over all epochs.')
        steps = max(1, int(self.trainer.estimated_stepping_batches) // epochs)
        factor = self.schedule(steps, epochs)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step))
        return {'optimizer': optimizer, 'lr_scheduler': {'scheduler': scheduler, 'interval': 'step'}}

    # --- evaluation -------------------------------------------------------------------------------------------------

    def classifier(self, tokens: Tensor) -> Tensor:
        """Zero-shot classifier: the mean of a class's normalized prompts, normalized again.

        Args:
            tokens: Prompts, int64 (C, P, T).

        Returns:
            Unit-norm rows, (C, D).
        """
        chunks = torch.split(tokens.flatten(0, 1), 1024)
        prompts = torch.cat([self.encode_text(chunk.to(self.device)) for chunk in chunks])
        return F.normalize(prompts.view(*tokens.shape[:2], -1).mean(1), dim=-1)

    def on_validation_epoch_start(self) -> None:
        with self.trainer.strategy.precision_plugin.forward_context():
            self.classifiers = [self.classifier(tokens) for tokens in prompts_of(self.trainer).prompt_tokens()]

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Embeds the images of an evaluation set and compares them with its classes.

        Returns:
            ``image``: unit-norm embeddings, float32 (B, D). ``logits``: cosine to each class, float32 (B, C).
        """
        image = self.encode_image(batch.image)
        with torch.autocast(self.device.type, enabled=False):  # in bfloat16 the best of many classes would be tied
            return {'image': image, 'logits': image @ self.classifiers[dataloader_idx].T}

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step

    def predict_step(self, batch: Pairs, batch_idx: int) -> dict[str, Tensor]:
        """Embeds pairs.

        Returns:
            ``row``: row of each pair, (B,). ``similarity``: cosine of its image and caption, the mean over its views,
            float32 (B,). ``image`` and ``text``: embeddings of the first view, unit norm, float32 (B, D).
        """
        image, text = self._embed(batch)
        return {'row': batch.row, 'similarity': (image * text).sum(-1).mean(0), 'image': image[0], 'text': text[0]}

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        add_version(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_version(checkpoint, 'ckpt_path')
        check_architecture(self, checkpoint['state_dict'], 'ckpt_path')


def attention(device: torch.device) -> AbstractContextManager[None]:
    """Plain attention on the CPU, where torch's flash kernel costs short captions 2.6 times as much."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == 'cpu' else nullcontext()


def build_towers(architecture: str, pretrained: str | None) -> tuple[Any, int]:
    """Both towers from open_clip, by name or from a JSON file.

    Returns:
        The open_clip model and the length of its embeddings.

    Raises:
        UsageError: If open_clip knows no such model or no such weights, and there is no such file.
    """
    import open_clip  # takes seconds

    name = architecture
    if architecture.endswith('.json'):
        path = _config_file(architecture)
        open_clip.add_model_config(path)
        name = path.stem
    if name not in open_clip.list_models():
        raise UsageError(
            f'model.architecture={architecture!r} is no open_clip model; see open_clip.list_models(), or give the path '
            f'of a JSON file.'
        )
    _check_pretrained(name, pretrained)
    towers = open_clip.create_model(name, pretrained=pretrained, load_weights=pretrained is not None)
    return towers, open_clip.get_model_config(name)['embed_dim']


def _config_file(architecture: str) -> Path:
    """A JSON of the user's, or one of those that come with the project."""
    for path in (Path(architecture), Path(__file__).parent / 'model_configs' / architecture):
        if path.is_file():
            return path
    ours = ', '.join(sorted(path.name for path in (Path(__file__).parent / 'model_configs').glob('*.json')))
    raise UsageError(
        f'model.architecture={architecture!r}: there is no such file, give the path of one or the name of one of ours: '
        f'{ours}.'
    )


def _check_pretrained(name: str, pretrained: str | None) -> None:
    """Refuses weights that open_clip does not have before it builds a model for them."""
    import open_clip

    if pretrained is None or Path(pretrained).is_file() or open_clip.get_pretrained_cfg(name, pretrained):
        return
    tags = ', '.join(open_clip.list_pretrained_tags_by_model(name)) or 'none, so leave it null'
    raise UsageError(f'model.pretrained={pretrained!r} is neither a file nor a tag of {name}; its tags: {tags}.')


def check_architecture(module: nn.Module, weights: dict[str, Tensor], argument: str) -> None:
    """Refuses weights of another architecture in one sentence instead of a page of keys."""
    own, given = ({k: w.shape for k, w in x.items() if k.startswith('towers.')} for x in (module.state_dict(), weights))
    strange = sorted(k for k in own | given if own.get(k) != given.get(k))
    if strange:
        raise UsageError(
            f'{argument} holds weights of another architecture ({len(strange)} tensors differ, first {strange[0]}): '
            f'set model.architecture to the one that the checkpoint was trained with.'
        )


def load_weights(module: nn.Module, path: str, argument: str = 'model.init_from') -> None:
    """Loads the towers of a checkpoint, nothing else of it. Raises ``UsageError`` if they do not fit."""
    if not Path(path).is_file():
        raise UsageError(f'{argument}={path!r}: there is no such file.')
    checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    if 'state_dict' not in checkpoint:
        raise UsageError(f'{argument}={path!r} is no checkpoint of this project: use model.pretrained for others.')
    check_version(checkpoint, f'{argument}={path!r}')
    weights = checkpoint['state_dict']
    check_architecture(module, weights, argument)
    module.load_state_dict({k: v for k, v in weights.items() if k.startswith('towers.')}, strict=False)


def _epoch_seed(epoch: int, rank: int) -> int:
    """Seed of an epoch on a rank, from the run's own seed."""
    seed = int(os.environ.get('PL_GLOBAL_SEED', '0'))
    return (seed * 1_000_003 + epoch * 1_009 + rank) % 2**31
