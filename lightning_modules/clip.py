"""CLIP: an image tower, a text tower and one loss. The undefended baseline, and the base class of every defense."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from datamodules.contracts import prompts_of
from datamodules.usage_error import UsageError, check_number
from lightning_modules.checkpoint_version import add_version, check_version
from lightning_modules.classifiers import Classifiers, identify_text_tower
from lightning_modules.divergence import DivergenceWatch
from lightning_modules.frozen_towers import Frozen, freeze, stop_statistics
from lightning_modules.losses import info_nce, one_way
from lightning_modules.normalization import Normalization
from lightning_modules.packed_text import can_be_packed, encode_packed, run_packed
from lightning_modules.recompute import frozen_statistics, recompute, recompute_towers
from lightning_modules.schedules import Schedule, restart_from_peaks
from lightning_modules.towers import build_towers
from lightning_modules.weights import EARLIER_PAIRS, check_method, check_weights, load_start, trained_pairs

MIXED = {'bf16-mixed': torch.bfloat16, '16-mixed': torch.float16}
MAX_SENT_IN_FULL = 8192  # pairs of a batch over all processes
FROZEN = 'frozen'  # in a checkpoint: which towers stay as they are
BATCHES = 'batches'  # and the number of batches in an epoch
MAX_LOGIT_SCALE = math.log(100)  # Radford et al., 2021: keeps the logits from growing without bound


class Pairs(Protocol):
    """The fields of a batch that a training step reads; ``datamodules.pairs.PairBatch`` has them."""

    image: Tensor
    tokens: Tensor
    row: Tensor
    cross_modal: int


class Gathered(NamedTuple):
    """Embeddings of all processes, (B, D), and the index of this process's first row among them."""

    rows: Tensor
    first: int


class CLIP(L.LightningModule):
    """Contrastive language-image pre-training (Radford et al., 2021).

    Args:
        architecture: Name of an open_clip model, or path of a JSON file in open_clip's format, such as the
            ``open_clip_config.json`` of a saved model. Tokenizer and normalization are its own. ``RN50`` uses GELU in
            its text tower; ``RN50-quickgelu`` uses QuickGELU, as OpenAI's weights do. With several processes, a ResNet
            normalizes over each process's share of the batch, so its loss differs slightly from that of a single
            process; on GPUs, ``trainer.sync_batchnorm: true`` removes the difference. Other models are not affected.
        pretrained: Weights to start from: an open_clip tag, or a file of open_clip, its trainer, OpenAI or Clipward. By
            default, weights are random.
        init_from: Clipward checkpoint, or another such file, to take the initial weights from. Its settings and
            training progress are ignored.
        frozen: Tower that stays as it is but for its projection into the common space: ``image``, ``text``, or
            ``both``. Its batch norms keep their statistics. By default, both towers are trained.
        lr: Peak learning rate of AdamW.
        warmup_steps: Steps of linear warm-up. Defaults to a tenth of all steps, at most 10,000.
        weight_decay: Weight decay of matrices. Vectors and scalars (norms, biases, the logit scale) are not decayed.
        betas: Decay rates of AdamW's two moment estimates.
        eps: Term that AdamW adds to its denominator.
        views: Augmented views of each pair in a step, ``1`` or ``2``. With two, view 1 of the image is compared with
            view 2 of the caption, and view 2 of the image with view 1 of the caption.
        channels_last: Store the image tower in channels-last format, which speeds up convolutions on most hardware.
        compile: Compile both towers. The first step then takes a minute longer.
        grad_checkpointing: Compute the activations of each block again in the backward pass instead of keeping them:
            a third more time, far less memory.
        chunk_size: Pairs per process whose activations are kept at a time. The towers then take a batch in chunks,
            twice, and the loss still contrasts all pairs of the batch (as open_clip's ``--accum-freq``; Gao et al.,
            2021). Batch normalization sees a chunk at a time. Defaults to the whole batch.
        tile_size: Pairs per process whose similarities to a batch, or to a pool, are in memory at a time; the loss is
            the same. By default, batches over all processes of more than 8,192 pairs need no more memory for them.

    Attributes:
        towers: The open_clip model.
        width: Dimension D of an embedding.
        tokenizer: The model's own tokenizer; ``None`` for CLIP's, which the datamodules bring.
        untrained: Whether the weights start random, without ``pretrained`` or ``init_from``.
        trained_pairs: Sketches of the pairs that the loaded weights were trained on, as far as known; without those of
            this run where a run goes on.
        terms: Terms of the loss that some steps lack.
    """

    terms: tuple[str, ...] = ()

    def __init__(
        self,
        architecture: str = 'RN50',
        pretrained: str | None = None,
        init_from: str | None = None,
        frozen: Frozen | None = None,
        lr: float = 5e-4,
        warmup_steps: int | None = None,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        views: int = 1,
        channels_last: bool = False,
        compile: bool = False,
        grad_checkpointing: bool = False,
        chunk_size: int | None = None,
        tile_size: int | None = None,
    ) -> None:
        super().__init__()
        if views not in (1, 2):
            raise UsageError(f'model.views must be 1 or 2, got {views}.')
        for name, value in (('lr', lr), ('warmup_steps', warmup_steps), ('weight_decay', weight_decay)):
            check_number(f'model.{name}', value, '[0, inf)')
        check_number('model.eps', eps, '(0, inf)')  # 0 would divide the gradient 0 of an unused token by 0
        for beta in betas:
            check_number('model.betas', beta, '[0, 1)')
        check_number('model.chunk_size', chunk_size, '[1, inf)')
        check_number('model.tile_size', tile_size, '[1, inf)')
        self.architecture, self.lr, self.warmup_steps = architecture, lr, warmup_steps
        self.weight_decay, self.betas, self.eps = weight_decay, betas, eps
        self.views, self.channels_last = views, channels_last
        self.chunk_size, self.tile_size = chunk_size, tile_size
        self.untrained, self.frozen = pretrained is None and init_from is None, frozen
        if frozen is not None and self.untrained:
            raise UsageError(
                f'model.frozen={frozen} would keep random weights: name trained ones with model.init_from or '
                f'model.pretrained, or leave it null.'
            )
        file = pretrained if pretrained is not None and Path(pretrained).is_file() else None
        self.towers, self.width, self.tokenizer = build_towers(architecture, pretrained if file is None else None)
        self.normalization = Normalization.of(self.towers.visual.preprocess_cfg)
        self.trained_pairs: list[Tensor] = []
        for argument, path in (('model.pretrained', file), ('model.init_from', init_from)):
            if path is not None:
                self._load(argument, path)
        if frozen is not None:
            freeze(self.towers, frozen)
        if channels_last:
            self.towers.visual.to(memory_format=torch.channels_last)
        if compile:
            self.towers.visual.compile()
        self.recomputes = grad_checkpointing or chunk_size is not None
        if grad_checkpointing:
            recompute_towers(self.towers)
        self.packs_text = can_be_packed(self.towers)
        self._run_packed = torch.compile(run_packed, dynamic=True) if compile else run_packed
        self._encode_padded = torch.compile(self.towers.encode_text) if compile else self.towers.encode_text
        self.classifiers: list[Tensor] = []
        self.known_classifiers = Classifiers()
        self.configured: list[dict[str, Any]] = []  # settings of each group of parameters at the start
        self.divergence = DivergenceWatch()
        self.batches_per_epoch: float | None = None  # in an epoch of this run, or of the one that is resumed

    # --- embeddings -------------------------------------------------------------------------------------------------

    @property
    def image_size(self) -> int:
        """Side of an input image in pixels."""
        size = self.towers.visual.image_size
        return int(size[0] if isinstance(size, tuple | list) else size)

    @property
    def context_length(self) -> int:
        """Tokens of a caption, including start and end."""
        return int(self.towers.context_length)

    @property
    def logit_scale(self) -> Tensor:
        """Inverse temperature, between 1 and 100."""
        return self.towers.logit_scale.exp()

    def image_features(self, image: Tensor) -> Tensor:
        """Output of the image tower, float32 (B, D), for images (B, 3, H, W) that are normalized as CLIP's own."""
        image = self.normalization(image)
        if self.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        with attention(image.device):
            return self.towers.encode_image(image).float()

    def encode_image(self, image: Tensor) -> Tensor:
        """Unit-norm float32 embeddings (B, D) of images (B, 3, H, W), as for :meth:`image_features`."""
        return F.normalize(self.image_features(image), dim=-1)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Unit-norm float32 embeddings (B, D) of tokens (B, T)."""
        packed = partial(encode_packed, self.towers, run=self._run_packed)
        return embed(packed if self.packs_text else self._encode_padded, tokens)

    # --- training ---------------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> CLIP:
        super().train(mode)
        if self.frozen is not None:
            stop_statistics(self.towers, self.frozen)
        return self

    def setup(self, stage: str) -> None:
        check_strategy(self.trainer)
        check_norms(self.trainer, self.towers)
        if stage == 'fit':
            check_accumulation(most_accumulated(self.trainer))

    def phase(self, epoch: int) -> str:
        """Name of the training phase that an epoch, counted from 0, belongs to."""
        return 'clip'

    def sides(self, epoch: int) -> dict[str, int]:
        """Number of views on each side of an epoch. If only one side is named, it gets every pair that is kept.

        Beside ``cross_modal`` and ``within_modal``, between which a split divides the pairs, ``trusted`` may be named:
        the pairs of ``data.trusted`` are then trained across modalities, and all pairs within each. It is empty if the
        user trusts none.
        """
        return {'cross_modal': self.views}

    def training_step(self, batch: Pairs, batch_idx: int) -> dict[str, Tensor]:
        """Trains the first ``batch.cross_modal`` pairs of a batch across modalities, the others within each modality.

        Args:
            batch: Views of the images, (V, B, 3, H, W), and of the tokens, (V, B, T).
            batch_idx: Required by Lightning.

        Returns:
            ``loss``: the total in nats. ``similarity``: cosine of each pair's first views, (B,), for callbacks.
        """
        image, text = self._embed(batch)
        partners = self.partners(batch, image, text)
        with torch.autocast(self.device.type, enabled=False):
            losses = self.losses(image, partners, batch.cross_modal)
        loss = torch.stack(list(losses.values())).sum()
        self.divergence.add(loss, self.trainer)
        self._log_step(loss, losses, len(batch.row))
        return {'loss': loss, 'similarity': (image[0] * text[0]).sum(-1).detach()}

    def _log_step(self, loss: Tensor, losses: Mapping[str, Tensor], pairs: int) -> None:
        """Logs only the steps that loggers write; to log each takes a twentieth of a small model's step."""
        if not self._is_logged():
            return
        lr = self.trainer.optimizers[0].param_groups[0]['lr']
        lacking = dict.fromkeys(self.terms, math.nan)  # Lightning would write their last values again
        values = {**lacking, **losses, 'lr': lr, 'logit_scale': self.logit_scale.detach()}
        self.log_dict({f'train/{name}': value for name, value in values.items()}, batch_size=pairs)
        self.log('train/loss', loss, prog_bar=True, batch_size=pairs)

    def _is_logged(self) -> bool:
        """Whether loggers write the step that is being trained."""
        trainer: Any = self.trainer  # whose type lacks some of its attributes
        every: int = trainer.log_every_n_steps
        return bool(every) and not (trainer.fit_loop.epoch_loop._batches_that_stepped + 1) % every

    def partners(self, batch: Pairs, image: Tensor, text: Tensor) -> Tensor:
        """The captions that the images of a batch are trained with, (V, B, D): their own, ``text``."""
        return text

    def losses(self, image: Tensor, text: Tensor, cross_modal: int) -> dict[str, Tensor]:
        """Terms of the loss by name.

        Args:
            image: Unit-norm embeddings of the views of the images, (V, B, D).
            text: Unit-norm embeddings of the views of the captions, (V, B, D).
            cross_modal: Number of pairs, at the start of the batch, that are trained across modalities.
        """
        return {'cross_modal': self.cross_modal_loss(image[:, :cross_modal], text[:, :cross_modal])}

    def cross_modal_loss(self, image: Tensor, text: Tensor) -> Tensor:
        """CLIP loss of embeddings (V, b, D), on one view or crosswise on two (as in the released ``train.py``)."""
        if self.views == 1:
            image, text = image[:1], text[:1]
        (all_image, first), (all_text, _) = self.gather(image[0]), self.gather(text[-1])
        if self.views == 1:
            return info_nce(image[0], text[0], self.logit_scale, all_image, all_text, first, self.tile_size)
        all_image_2 = self.gather(image[1]).rows
        to_text = one_way(image[0], all_text, self.logit_scale, first, self.tile_size)
        return (to_text + one_way(text[0], all_image_2, self.logit_scale, first, self.tile_size)) / 2

    def gather(self, rows: Tensor) -> Gathered:
        """Gathers the rows of all processes in rank order, with gradient.

        DDP averages gradients over processes, so that each parameter gets the gradient that one process would compute.
        In mixed precision the embeddings of a large batch are sent in 16 bits, as are their gradients.
        """
        world = self.trainer.world_size
        if world == 1:
            return Gathered(rows, 0)
        is_large = world * len(rows) > MAX_SENT_IN_FULL and rows.is_floating_point()
        sent = rows.to(MIXED.get(self.trainer.precision, rows.dtype)) if is_large else rows
        gathered: Any = self.all_gather(sent, sync_grads=torch.is_grad_enabled())  # (W, b, D)
        return Gathered(gathered.flatten(0, 1).to(rows.dtype), self.global_rank * len(rows))

    def _embed(self, batch: Pairs) -> tuple[Tensor, Tensor]:
        """Embeds all views of a batch, each modality in one pass: (V, B, ...) -> (V, B, D)."""
        if self.chunk_size is None or self.chunk_size >= len(batch.row):
            return self._embed_chunk(batch.image, batch.tokens)
        number = math.ceil(len(batch.row) / self.chunk_size)  # of chunks of nearly equal size, for batch normalization
        chunks = zip(batch.image.tensor_split(number, 1), batch.tokens.tensor_split(number, 1), strict=True)
        images, texts = zip(*(recompute(self._embed_chunk, *chunk) for chunk in chunks), strict=True)
        return torch.cat(images, 1), torch.cat(texts, 1)

    def _embed_chunk(self, image: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        views, pairs = tokens.shape[:2]
        images, texts = self.encode_image(image.flatten(0, 1)), self.encode_text(tokens.flatten(0, 1))
        return images.view(views, pairs, -1), texts.view(views, pairs, -1)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        # Recomputed activations must be those of the forward pass, and count once; torch does not see to it.
        with attention(self.device), frozen_statistics(self.towers) if self.recomputes else nullcontext():
            super().backward(loss, *args, **kwargs)

    def on_train_epoch_start(self) -> None:
        # Lightning does not save generator states, so reseed: dropout must not depend on where a run was resumed.
        torch.manual_seed(_epoch_seed(self.current_epoch, self.global_rank))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        with torch.no_grad():
            self.towers.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        trainer = self.trainer
        if trainer.is_last_batch or trainer.should_stop or trainer.global_step == trainer.max_steps:
            self.stop_if_diverged()
        elif self.divergence.is_due(trainer):
            self.divergence.check_losses(trainer)

    def stop_if_diverged(self) -> None:
        """Raises ``UsageError`` if a loss since the last look, or a weight, is not a finite number."""
        if self.divergence.latest is not None:  # else nothing was trained
            self.divergence.check(self.trainer, self.towers.state_dict().values())

    # --- optimization -----------------------------------------------------------------------------------------------

    def schedule(self, steps_per_epoch: int, epochs: int) -> Schedule:
        """Learning rate at each step of a run, as a fraction of the peak."""
        return Schedule(steps_per_epoch * epochs, 0, 0, warmup=self.warmup_steps)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        matrices = [p for p in self.parameters() if p.requires_grad and p.ndim >= 2]
        others = [p for p in self.parameters() if p.requires_grad and p.ndim < 2]
        groups = [{'params': matrices, 'weight_decay': self.weight_decay}, {'params': others, 'weight_decay': 0.0}]
        fused = not self.trainer.gradient_clip_val  # Lightning 2.6 cannot clip before a fused step
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=fused)
        epochs = self.trainer.max_epochs
        if not epochs or epochs < 0:
            raise UsageError('trainer.max_epochs must be set: the learning rate schedule covers the whole run.')
        steps = max(1, int(self.trainer.estimated_stepping_batches) // epochs)
        self._check_batches(self.trainer.num_training_batches)  # known since steps were estimated
        # Asked anew at each step, because a phase may be extended meanwhile.
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.schedule(steps, epochs)(step))
        return {'optimizer': optimizer, 'lr_scheduler': {'scheduler': scheduler, 'interval': 'step'}}

    def on_fit_start(self) -> None:
        groups = [group for optimizer in self.trainer.optimizers for group in optimizer.param_groups]
        self.configured = [{name: value for name, value in group.items() if name != 'params'} for group in groups]

    def on_train_start(self) -> None:
        # A checkpoint brings the settings of the run that wrote it. Those of this run hold, as its plan says.
        groups = [group for optimizer in self.trainer.optimizers for group in optimizer.param_groups]
        for group, configured in zip(groups, self.configured, strict=False):
            group.update({name: value for name, value in configured.items() if name != 'lr'})
        self.restart_schedules()

    def restart_schedules(self) -> None:
        """Sets the learning rate of the next step anew, after peaks or schedule have changed."""
        for config in self.trainer.lr_scheduler_configs:
            restart_from_peaks(config.scheduler)

    # --- evaluation -------------------------------------------------------------------------------------------------

    def classifier(self, tokens: Tensor) -> Tensor:
        """Zero-shot classifier: each class is the mean of its normalized prompt embeddings, normalized again.

        Args:
            tokens: Prompts, int64 (C, P, T).

        Returns:
            Unit-norm rows, (C, D).
        """
        chunks = torch.split(tokens.flatten(0, 1), 1024)
        prompts = torch.cat([self.encode_text(chunk.to(self.device)) for chunk in chunks])
        return F.normalize(prompts.view(*tokens.shape[:2], -1).mean(1), dim=-1)

    def on_validation_start(self) -> None:
        self.stop_if_diverged()  # also where an epoch is evaluated before its end

    def on_validation_epoch_start(self) -> None:
        prompts, trainer = prompts_of(self.trainer), self.trainer
        tower = identify_text_tower(self.towers, trainer.precision, self.device.type, self.packs_text)
        keep = None if trainer.state.fn == 'fit' else prompts.kept_array  # of weights that no longer change
        with trainer.strategy.precision_plugin.forward_context():
            known = self.known_classifiers.build(prompts.prompt_tokens(), self, tower, keep)
        self.classifiers = [classifier.to(self.device) for classifier in known]

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Embeds the images of an evaluation set and compares them with its classes.

        Returns:
            ``image``: unit-norm embeddings, float32 (B, D). ``logits``: cosine to each class, float32 (B, C).
        """
        image = self.encode_image(batch.image)
        with torch.autocast(self.device.type, enabled=False):  # in bfloat16 the top classes of many would tie
            return {'image': image, 'logits': image @ self.classifiers[dataloader_idx].T}

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step

    def predict_step(self, batch: Pairs, batch_idx: int) -> dict[str, Tensor]:
        """Embeds pairs and measures how similar their images and captions are.

        Returns:
            ``row``: row of each pair, (B,). ``similarity``: cosine of image and caption, averaged over views, float32
            (B,). ``image`` and ``text``: unit-norm embeddings of the first view, float32 (B, D). ``views``: those of
            all views of both, (2, V, B, D).
        """
        # One view at a time, which is a quarter faster on a CPU, and each caption once: few classes have few captions.
        image = torch.stack([self.encode_image(view) for view in batch.image])
        captions, place = batch.tokens.flatten(0, 1).unique(dim=0, return_inverse=True)
        text = self.encode_text(captions)[place].view_as(image)
        similarity = (image * text).sum(-1).mean(0)
        views = torch.stack([image, text])
        return {'row': batch.row, 'similarity': similarity, 'image': views[0, 0], 'text': views[1, 0], 'views': views}

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.stop_if_diverged()
        add_version(checkpoint)
        checkpoint['normalization'], checkpoint[FROZEN] = self.normalization.settings, self.frozen
        checkpoint[BATCHES] = self.batches_per_epoch
        checkpoint[EARLIER_PAIRS] = self.trained_pairs

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_version(checkpoint, 'ckpt_path')
        check_weights(self, checkpoint['state_dict'], 'ckpt_path')
        self.adopt_normalization(checkpoint)
        is_resumed = self.trainer.state.fn == 'fit'
        self.trained_pairs = checkpoint.get(EARLIER_PAIRS, []) if is_resumed else trained_pairs(checkpoint)
        if is_resumed and 'optimizer_states' not in checkpoint:
            raise UsageError(
                'ckpt_path holds weights alone, from which no run can go on: start a new one with model.init_from.'
            )
        if is_resumed:
            check_method(self, checkpoint['state_dict'])
            self._check_frozen(checkpoint.get(FROZEN))  # absent before towers could be frozen
            self.batches_per_epoch = checkpoint.get(BATCHES)  # absent from older checkpoints
        self.strict_loading = is_resumed  # evaluation needs the towers alone, whatever method has trained them

    def _check_frozen(self, frozen: Frozen | None) -> None:
        if frozen != self.frozen:
            earlier, current = (each or 'null' for each in (frozen, self.frozen))
            raise UsageError(
                f'ckpt_path holds a run with model.frozen={earlier}, not {current}: resume with that, or start from '
                f'its weights with model.init_from instead of ckpt_path.'
            )

    def _check_batches(self, batches: float) -> None:
        """Refuses to resume a run with epochs of another length: learning rates go by steps, phases by epochs."""
        trainer: Any = self.trainer
        if self.batches_per_epoch not in (None, batches) and not trainer.fast_dev_run:
            raise UsageError(
                f'ckpt_path is of a run with {self.batches_per_epoch} batches in an epoch, and this one has {batches}: '
                f'resume with data.batch_size and trainer.limit_train_batches of that run, or start from its weights '
                f'with model.init_from instead of ckpt_path.'
            )
        self.batches_per_epoch = batches

    def _load(self, argument: str, path: str) -> None:
        checkpoint = load_start(self, self.towers, path, argument)
        if not checkpoint and not self.normalization.settings:  # weights of open_clip or OpenAI
            self.normalization = Normalization.published(self.architecture)
        self.start_from(checkpoint)

    def start_from(self, checkpoint: Mapping[str, Any]) -> None:
        """Takes from a checkpoint what belongs to its weights, once these are loaded."""
        self.adopt_normalization(checkpoint)
        self.trained_pairs = trained_pairs(checkpoint)

    def adopt_normalization(self, checkpoint: Mapping[str, Any]) -> None:
        """Weights that came from ``pretrained`` keep its normalization, also where that is not named again."""
        settings = checkpoint.get('normalization', self.normalization.settings)
        self.normalization = Normalization.of(settings).to(self.device)


def check_strategy(trainer: L.Trainer) -> None:
    """Refuses strategies that split the model or its optimizer.

    Raises:
        UsageError: For such a strategy.
    """
    strategy = trainer.strategy
    is_supported = isinstance(strategy, SingleDeviceStrategy | DDPStrategy)
    if not is_supported or isinstance(strategy, DeepSpeedStrategy):  # which Lightning derives from DDPStrategy
        raise UsageError(
            f'trainer.strategy={type(strategy).__name__} splits the model or its optimizer, which the gathered loss '
            'and the checkpoints do not support: use ddp, and model.grad_checkpointing or model.chunk_size if memory '
            'is short.'
        )


def check_norms(trainer: L.Trainer, towers: nn.Module) -> None:
    """Refuses to synchronize norms that hold an activation, as timm's do: torch's conversion would remove it.

    Raises:
        UsageError: For ``trainer.sync_batchnorm`` with such towers.
    """
    is_synced = getattr(trainer.strategy, '_layer_sync', None) is not None
    if is_synced and any(isinstance(part, _BatchNorm) and hasattr(part, 'act') for part in towers.modules()):
        raise UsageError(
            'trainer.sync_batchnorm=true would remove the activations of this image tower, which timm keeps inside its '
            'batch norms: leave it false, or choose another model.architecture.'
        )


def check_accumulation(batches: int) -> None:
    """Refuses to accumulate the gradients of batches, which would not see each other.

    Raises:
        UsageError: For more than one batch.
    """
    if batches > 1:
        raise UsageError(
            f'trainer.accumulate_grad_batches={batches} would contrast the pairs of each batch alone: set '
            f'data.batch_size to the {batches} batches together and model.chunk_size to what fits into memory instead.'
        )


def most_accumulated(trainer: Any) -> int:
    """The most batches that a Lightning trainer, whose type lacks its callbacks, accumulates in any epoch."""
    schedulers = [callback for callback in trainer.callbacks if isinstance(callback, GradientAccumulationScheduler)]
    later = [batches for scheduler in schedulers for batches in scheduler.scheduling.values()]
    return max(trainer.accumulate_grad_batches, *later, 1)


def embed(encode: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Unit-norm float32 embeddings (B, D) of what a tower makes of images or tokens, (B, ...)."""
    with attention(inputs.device):
        return F.normalize(encode(inputs).float(), dim=-1)


def attention(device: torch.device) -> AbstractContextManager[None]:
    """Selects plain attention on the CPU, where torch's flash kernel takes 2.6 times as long on short captions."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == 'cpu' else nullcontext()


def _epoch_seed(epoch: int, rank: int) -> int:
    """Seed of an epoch on a rank, derived from the seed of the run."""
    seed = int(os.environ.get('PL_GLOBAL_SEED', '0'))
    return (seed * 1_000_003 + epoch * 1_009 + rank) % 2**31
