"""Training on two processes, and on one for comparison."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from callbacks.linear_probe import LinearProbe
from callbacks.sweep import sweep
from datamodules.pictures.augment import SimCLRViews
from datamodules.rows.filters import CleanSubset
from datamodules.rows.partition import RISKY
from datamodules.text.eda import EDA
from lightning_modules import clip as clip_module
from lightning_modules.cleanclip import CleanCLIP
from lightning_modules.clip import CLIP
from lightning_modules.par import PAR
from lightning_modules.roclip import RoCLIP
from lightning_modules.safeclip import SafeCLIP
from tests.helpers.tiny import CONTEXT_LENGTH, TinyPairs, tiny_architecture, trainer, write_json
from tests.integration.runs import BATCH, PLACES, Died, Run, last, pairs, run

TOGETHER: dict[str, Any] = {'strategy': 'ddp', 'devices': 2}
Module = TypeVar('Module', bound=CLIP)
POOL = 3 * BATCH  # full batches, so that the order of pairs in a batch does not decide which embeddings are replaced


class Gradients(Callback):
    """Records the loss and the gradients of every step, as the optimizer receives them."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.gradients: list[dict[str, Tensor]] = []

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        named = pl_module.named_parameters()
        self.gradients.append({name: p.grad.clone() for name, p in named if p.grad is not None})

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(float(trainer.strategy.reduce(outputs['loss'].detach(), reduce_op='mean')))


class Norms(Callback):
    """Records the first running mean after the last step, in each evaluation batch, and after the sweep at the end."""

    def __init__(self) -> None:
        self.trained: Tensor | None = None
        self.evaluated: list[Tensor] = []
        self.swept: Tensor | None = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.trained = running_mean(pl_module)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.evaluated.append(running_mean(pl_module))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data: Any = trainer.datamodule
        sweep(trainer, pl_module, data.sweep_dataloader(), len(data.table))
        self.swept = running_mean(pl_module)


class SentBuffers(Callback):
    """Records the names of the buffers that DDP sends from the first rank before every step, and of ignored ones."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.ignored: list[str] = []

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        ddp: Any = trainer.strategy.model
        self.sent, self.ignored = sorted(ddp.named_module_buffers), sorted(ddp.parameters_to_ignore)


def running_mean(module: torch.nn.Module) -> Tensor:
    norm = next(part for part in module.modules() if isinstance(part, _BatchNorm))
    assert norm.running_mean is not None
    return norm.running_mean.clone()


class HalfRisky(TinyPairs):
    """Pairs of which every second one is risky from the start."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.partition.side[::2] = RISKY


class FrozenNorms(CLIP):
    """A model whose batch norms use fixed statistics."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        for part in self.modules():
            if isinstance(part, _BatchNorm):
                part.eval()


def augmented(folder: Path, kind: type[TinyPairs] = TinyPairs, **kwargs: Any) -> TinyPairs:
    """Pairs with augmented views, which depend only on seed, epoch, row and view."""
    captions = EDA(alpha=0.3, operations=('swap', 'deletion'))
    return kind(
        rows=4 * BATCH,
        batch_size=BATCH,
        image_views=SimCLRViews(crop_scale=(0.5, 1.0)),
        caption_views=captions,
        cache_dir=str(folder / 'cache'),
        **kwargs,
    )


def write_resnet(folder: Path) -> str:
    """Writes the config of a tiny ResNet in open_clip's format and returns its path."""
    vision = {'image_size': 32, 'layers': [1, 1, 1, 1], 'width': 4, 'head_width': 16}
    text = {'context_length': CONTEXT_LENGTH, 'vocab_size': 49408, 'width': 8, 'heads': 2, 'layers': 1}
    return write_json(folder / 'residual.json', {'embed_dim': 8, 'vision_cfg': vision, 'text_cfg': text})


def write_weights(architecture: str, folder: Path) -> str:
    """Writes a checkpoint of random weights for this process, the same on all, and returns its path."""
    path = folder / f'weights-{os.getpid()}.ckpt'
    torch.save({'state_dict': build_with_seed(CLIP, architecture=architecture).state_dict()}, path)
    return str(path)


def train_one_epoch(module: CLIP, data: TinyPairs, *more: Callback, **settings: Any) -> dict[str, Any]:
    """Returns losses and gradients of one epoch at a learning rate of 0, so that every step has the same weights."""
    watch = Gradients()
    trainer(max_epochs=1, callbacks=[watch, *more], **settings).fit(module, data)
    return {'losses': watch.losses, 'gradients': watch.gradients}


def transformer_results(folder: Path, **settings: Any) -> dict[str, Any]:
    """Losses and gradients of each kind of loss, with towers in which the pairs of a batch do not interact."""
    tiny = tiny_architecture(folder, 'ranks')
    unimodal = {'unimodal_epochs': 2, 'slow_epochs': 0, 'pool_size': POOL}
    mixed = {'unimodal_epochs': 0, 'slow_epochs': 0, 'pool_size': POOL}

    def clip(**kwargs: Any) -> CLIP:
        return build_with_seed(CLIP, architecture=tiny, **kwargs)

    def safeclip(**kwargs: Any) -> CLIP:
        return build_with_seed(SafeCLIP, architecture=tiny, **kwargs)

    def roclip(**kwargs: Any) -> CLIP:
        return build_with_seed(RoCLIP, architecture=tiny, match_every=1, pool_size=POOL, **kwargs)

    return {
        'cross-modal, one view': train_one_epoch(clip(), augmented(folder), **settings),
        'cross-modal, two views': train_one_epoch(clip(views=2), augmented(folder), **settings),
        'cross-modal, in chunks': train_one_epoch(
            clip(views=2, chunk_size=3, grad_checkpointing=True), augmented(folder), **settings
        ),
        'cross-modal, in tiles': train_one_epoch(
            clip(views=2, chunk_size=3, tile_size=2), augmented(folder), **settings
        ),
        'cross-modal, sent in 16 bits': sent_in_16_bits(clip(tile_size=2), folder, settings),
        'unimodal, pool': train_one_epoch(safeclip(**unimodal), augmented(folder), **settings),
        'unimodal, as released': train_one_epoch(
            safeclip(**unimodal, nn_direction='view_rows', nn_roles='first'), augmented(folder), **settings
        ),
        'unimodal, no pool': train_one_epoch(safeclip(**{**unimodal, 'pool_size': 0}), augmented(folder), **settings),
        'unimodal, trusted pairs': train_one_epoch(
            safeclip(**unimodal), augmented(folder, trusted=CleanSubset(12)), **settings
        ),
        'unimodal, in tiles': train_one_epoch(safeclip(**unimodal, tile_size=3), augmented(folder), **settings),
        'within each modality, one way': train_one_epoch(
            build_with_seed(CleanCLIP, architecture=tiny), augmented(folder), **settings
        ),
        'pushed away': train_one_epoch(pushed(tiny), augmented(folder), **settings),
        'mixed, one side a batch': train_one_epoch(safeclip(**mixed), augmented(folder, HalfRisky), **settings),
        'mixed, both sides in a batch': train_one_epoch(
            safeclip(**mixed, views=2), augmented(folder, HalfRisky, order='joint'), **settings
        ),
        'matching': train_one_epoch(roclip(), augmented(folder), **settings),
        'matching, text trained': train_one_epoch(
            roclip(text_gradient='matched', views=2, chunk_size=3), augmented(folder), **settings
        ),
    }


def sent_in_16_bits(module: CLIP, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """An epoch in mixed precision, of batches that count as large."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip_module, 'MAX_SENT_IN_FULL', BATCH - 1)
        return train_one_epoch(module, augmented(folder), precision='bf16-mixed', **settings)


def pushed(architecture: str) -> PAR:
    """PAR of a model that is not what it was, where the push has a gradient."""
    model = build_with_seed(PAR, architecture=architecture)
    model.untrained = False
    with torch.no_grad():
        for parameter in model.poisoned.parameters():
            parameter.mul_(1.1).add_(0.01)
    return model


def resnet_results(folder: Path, **settings: Any) -> dict[str, Any]:
    """Losses and gradients with batch normalization on each process, and with frozen statistics."""
    path, norms = write_resnet(folder), Norms()
    return {
        'norms of each process': train_one_epoch(
            build_with_seed(CLIP, architecture=path), augmented(folder), norms, **settings
        ),
        'frozen norms': train_one_epoch(build_with_seed(FrozenNorms, architecture=path), augmented(folder), **settings),
        'frozen image tower': train_one_epoch(
            build_with_seed(CLIP, architecture=path, init_from=write_weights(path, folder), frozen='image'),
            augmented(folder),
            **settings,
        ),
        'statistics': {'trained': norms.trained, 'evaluated': norms.evaluated, 'swept': norms.swept},
    }


def probe_results(folder: Path, **settings: Any) -> dict[str, float]:
    """What a probe and the nearest neighbors reach, and attacks through them."""
    model = build_with_seed(CLIP, architecture=tiny_architecture(folder, 'probed'))
    running = trainer(callbacks=[LinearProbe()], **settings)
    running.validate(model, pairs(folder), verbose=False)
    return {name: float(value) for name, value in running.callback_metrics.items()}


def build_with_seed(kind: type[Module], **kwargs: Any) -> Module:
    torch.manual_seed(0)
    return kind(lr=0.0, **kwargs)


def results_of(finished: Run) -> dict[str, Any]:
    """Results of a run on this process."""
    return {
        'partition': finished.data.partition.state_dict(),
        'pools': {name: buffer.clone() for name, buffer in finished.module.pools.named_buffers()},
        'weights': finished.module.state_dict(),
        'metrics': finished.metrics.epochs,
        'rows': [epoch.rows for epoch in finished.trace.epochs],
        'images': [epoch.images for epoch in finished.trace.epochs],
        'validations': finished.trace.validations,
    }


def run_on_two(folder: Path) -> None:
    """Runs everything on this rank of two and saves the results in ``<rank>.pt``."""
    buffers = SentBuffers()
    whole = run(folder, watch=[buffers], **TOGETHER)
    results = {**transformer_results(folder, **TOGETHER), **resnet_results(folder, **TOGETHER), **results_of(whole)}
    probed = probe_results(folder, **TOGETHER)
    save_results(folder, {**results, 'sent': buffers.sent, 'ignored': buffers.ignored, 'probed': probed})


def resume_on_two(folder: Path) -> None:
    """Runs until both ranks die, resumes, and saves the results in ``<rank>.pt``."""
    with pytest.raises(Died):
        run(folder / 'died', place=PLACES['mixed'], **TOGETHER)
    save_results(folder, results_of(run(folder / 'resumed', resume=last(folder / 'died'), **TOGETHER)))


def save_results(folder: Path, results: dict[str, Any]) -> None:
    torch.save(results, folder / f'{torch.distributed.get_rank()}.pt')
    torch.distributed.barrier()  # the second rank is connected to the first, which must not exit early
    torch.distributed.destroy_process_group()


def largest_difference(one: Iterable[dict[str, Tensor]], other: Iterable[dict[str, Tensor]]) -> float:
    """Largest difference between two lists of gradients by name, relative to the largest entry if that is above 1."""
    pairs = [(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a | b]
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1)) for a, b in pairs)
