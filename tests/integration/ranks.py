"""What two processes do together, and one alone for comparison."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from callbacks.sweep import sweep
from datamodules.pictures.augment import SimCLRViews
from datamodules.rows.partition import RISKY
from datamodules.text.eda import EDA
from lightning_modules.clip import CLIP
from lightning_modules.safeclip import SafeCLIP
from tests.helpers.tiny import CONTEXT_LENGTH, TinyPairs, tiny_architecture, trainer, write_json
from tests.integration.runs import BATCH, PLACES, Died, Run, last, run

TOGETHER: dict[str, Any] = {'strategy': 'ddp', 'devices': 2}
POOL = 3 * BATCH  # whole batches, so that the same embeddings make room whatever their order in a batch


class Gradients(Callback):
    """Loss and gradients of every step, as the optimizer gets them."""

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
    """The first running mean after the last step, in each batch of evaluation, and in the sweep at the end."""

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


class Sent(Callback):
    """Names of the buffers that the first rank sends to the other before every step, and of what it is to leave out."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.ignored: list[str] = []

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        together: Any = trainer.strategy.model
        self.sent, self.ignored = sorted(together.named_module_buffers), sorted(together.parameters_to_ignore)


def running_mean(module: torch.nn.Module) -> Tensor:
    norm = next(part for part in module.modules() if isinstance(part, _BatchNorm))
    assert norm.running_mean is not None
    return norm.running_mean.clone()


class HalfRisky(TinyPairs):
    """Every second pair is risky from the start."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.partition.side[::2] = RISKY


class FrozenNorms(CLIP):
    """Normalizes by statistics that no batch changes."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        for part in self.modules():
            if isinstance(part, _BatchNorm):
                part.eval()


def augmented(folder: Path, kind: type[TinyPairs] = TinyPairs, **kwargs: Any) -> TinyPairs:
    """Pairs whose views depend on nothing but seed, epoch, row and view."""
    captions = EDA(alpha=0.3, operations=('swap', 'deletion'))
    return kind(
        rows=4 * BATCH,
        batch_size=BATCH,
        image_views=SimCLRViews(crop_scale=(0.5, 1.0)),
        caption_views=captions,
        cache_dir=str(folder / 'cache'),
        **kwargs,
    )


def residual_network(folder: Path) -> str:
    """Writes a ResNet of a few weights in open_clip's format and returns the path of the file."""
    vision = {'image_size': 32, 'layers': [1, 1, 1, 1], 'width': 4, 'head_width': 16}
    text = {'context_length': CONTEXT_LENGTH, 'vocab_size': 49408, 'width': 8, 'heads': 2, 'layers': 1}
    return write_json(folder / 'residual.json', {'embed_dim': 8, 'vision_cfg': vision, 'text_cfg': text})


def steps(module: CLIP, data: TinyPairs, *more: Callback, **settings: Any) -> dict[str, Any]:
    """An epoch at a learning rate of 0, so that every step shows the same weights another batch."""
    watch = Gradients()
    trainer(max_epochs=1, callbacks=[watch, *more], **settings).fit(module, data)
    return {'losses': watch.losses, 'gradients': watch.gradients}


def vision_transformers(folder: Path, **settings: Any) -> dict[str, Any]:
    """Every loss, with towers in which a pair does not see the other pairs of its batch."""
    tiny = tiny_architecture(folder, 'ranks')
    unimodal = {'unimodal_epochs': 2, 'slow_epochs': 0, 'pool_size': POOL}
    mixed = {'unimodal_epochs': 0, 'slow_epochs': 0, 'pool_size': POOL}

    def clip(**kwargs: Any) -> CLIP:
        return seeded(CLIP, architecture=tiny, **kwargs)

    def safeclip(**kwargs: Any) -> CLIP:
        return seeded(SafeCLIP, architecture=tiny, **kwargs)

    return {
        'cross-modal, one view': steps(clip(), augmented(folder), **settings),
        'cross-modal, two views': steps(clip(views=2), augmented(folder), **settings),
        'unimodal, pool': steps(safeclip(**unimodal), augmented(folder), **settings),
        'unimodal, as released': steps(
            safeclip(**unimodal, nn_direction='view_rows', nn_roles='first'), augmented(folder), **settings
        ),
        'unimodal, no pool': steps(safeclip(**{**unimodal, 'pool_size': 0}), augmented(folder), **settings),
        'mixed, one side a batch': steps(safeclip(**mixed), augmented(folder, HalfRisky), **settings),
        'mixed, both sides in a batch': steps(
            safeclip(**mixed, views=2), augmented(folder, HalfRisky, order='joint'), **settings
        ),
    }


def residual_networks(folder: Path, **settings: Any) -> dict[str, Any]:
    """The cross-modal loss with normalization over the batch, by each process for its own part, and without."""
    path, norms = residual_network(folder), Norms()
    return {
        'norms of each process': steps(seeded(CLIP, architecture=path), augmented(folder), norms, **settings),
        'frozen norms': steps(seeded(FrozenNorms, architecture=path), augmented(folder), **settings),
        'statistics': {'trained': norms.trained, 'evaluated': norms.evaluated, 'swept': norms.swept},
    }


def seeded(kind: type[CLIP], **kwargs: Any) -> CLIP:
    torch.manual_seed(0)
    return kind(lr=0.0, **kwargs)


def left_by(finished: Run) -> dict[str, Any]:
    """What a whole run leaves on this process."""
    return {
        'partition': finished.data.partition.state_dict(),
        'pools': {name: buffer.clone() for name, buffer in finished.module.pools.named_buffers()},
        'weights': finished.module.state_dict(),
        'metrics': finished.metrics.epochs,
        'rows': [epoch.rows for epoch in finished.trace.epochs],
        'images': [epoch.images for epoch in finished.trace.epochs],
        'validations': finished.trace.validations,
    }


def on_two(folder: Path) -> None:
    """Runs everything on this rank of two and leaves the results in ``<rank>.pt``."""
    buffers = Sent()
    whole = run(folder, watch=[buffers], **TOGETHER)
    found = {**vision_transformers(folder, **TOGETHER), **residual_networks(folder, **TOGETHER), **left_by(whole)}
    leave(folder, {**found, 'sent': buffers.sent, 'ignored': buffers.ignored})


def resumed_on_two(folder: Path) -> None:
    """Runs until both ranks die, goes on, and leaves the results in ``<rank>.pt``."""
    with pytest.raises(Died):
        run(folder / 'died', place=PLACES['mixed'], **TOGETHER)
    leave(folder, left_by(run(folder / 'resumed', resume=last(folder / 'died'), **TOGETHER)))


def leave(folder: Path, results: dict[str, Any]) -> None:
    torch.save(results, folder / f'{torch.distributed.get_rank()}.pt')
    torch.distributed.barrier()  # the first rank is the one that the other is connected to
    torch.distributed.destroy_process_group()


def deviation(one: Iterable[dict[str, Tensor]], other: Iterable[dict[str, Tensor]]) -> float:
    """Largest difference between two lists of gradients by name, over the largest entry where that is above 1."""
    pairs = [(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a | b]
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1)) for a, b in pairs)
