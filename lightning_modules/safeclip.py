"""SafeCLIP (Yang et al., ICML 2024): align modalities only for pairs whose two halves agree by themselves."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from datamodules.contracts import pairs_of
from datamodules.usage_error import UsageError
from lightning_modules.clip import CLIP
from lightning_modules.losses import Direction, nearest_neighbor_loss
from lightning_modules.neighbor_pool import NeighborPools, PoolSize
from lightning_modules.schedules import Plan, Schedule, auto_slow_factor

Auto = Literal['auto']


class SafeCLIP(CLIP):
    """CLIP that first learns each modality on its own, then crosses them only for pairs on the safe side.

    Phases, by epoch: ``unimodal`` trains each modality against nearest neighbors of its own (Eq. 2), ``slow`` takes
    one epoch of CLIP at a small rate, after which clean pairs are more similar than poisoned ones, ``mixed`` trains
    the safe side with the CLIP loss and the risky side with the unimodal one (Eq. 3 and 4). The split itself is the
    business of a callback; without one every pair stays safe, which makes this the control that the paper lacks:
    the same warm-up, views and steps, no partition.

    Args:
        unimodal_epochs: Epochs of the unimodal phase (paper: 5).
        slow_epochs: Epochs of the slow phase (paper: 1); with 0 or 2 the first split leaks (Table 3).
        slow_lr: Learning rate of the slow phase. ``auto``: lr * clip(10 / steps, 0.01, 0.3), which is the paper's
            0.01 lr on a million pairs and more, and enough to separate anything on ten thousand.
        pool_size: Embeddings of each modality that neighbors are sought in. ``auto``: 2 % of the pairs, at least
            four batches, at most 65,536 (the paper gives none). 0 pairs the two views directly ("No NN", Table 5).
        nn_direction: Which side of the unimodal loss is the anchor, see :func:`nearest_neighbor_loss`.
        nn_roles: ``both``: each view in turn is replaced by its neighbor. ``first``: only view 1 is, as released;
            it then receives no gradient although it costs a forward pass.
        in_modal: Train the risky side at all ("No CL" of Table 5 if not).
        lr_plan: See :class:`Schedule`.
        **kwargs: Those of :class:`CLIP`; ``views`` counts for safe pairs, a unimodal step always has two.
    """

    def __init__(
        self,
        unimodal_epochs: int = 5,
        slow_epochs: int = 1,
        slow_lr: float | Auto = 'auto',
        pool_size: PoolSize = 'auto',
        nn_direction: Direction = 'symmetric',
        nn_roles: Literal['both', 'first'] = 'both',
        in_modal: bool = True,
        lr_plan: Plan = 'global',
        **kwargs: Any,
    ) -> None:
        if unimodal_epochs < 0 or slow_epochs < 0:
            raise UsageError(
                f'model.unimodal_epochs and model.slow_epochs count epochs, got {unimodal_epochs} and {slow_epochs}.'
            )
        super().__init__(**kwargs)
        self.unimodal_epochs, self.slow_epochs, self.slow_lr = unimodal_epochs, slow_epochs, slow_lr
        self.pool_size, self.nn_direction, self.nn_roles = pool_size, nn_direction, nn_roles
        self.in_modal, self.lr_plan = in_modal, lr_plan
        self.pools = NeighborPools()

    def phase(self, epoch: int) -> str:
        if epoch < self.unimodal_epochs:
            return 'unimodal'
        return 'slow' if epoch < self.unimodal_epochs + self.slow_epochs else 'mixed'

    def sides(self, epoch: int) -> dict[str, int]:
        phase = self.phase(epoch)
        if phase == 'unimodal':
            return {'within_modal': 2}
        return (
            {'cross_modal': self.views}
            if phase == 'slow'
            else {'cross_modal': self.views, 'within_modal': 2 * self.in_modal}
        )

    def schedule(self, steps_per_epoch: int, epochs: int) -> Schedule:
        before, slow = (min(n, epochs) * steps_per_epoch for n in (self.unimodal_epochs, self.slow_epochs))
        after = max(0, epochs * steps_per_epoch - before - slow)
        factor = auto_slow_factor(slow) if self.slow_lr == 'auto' else float(self.slow_lr) / self.lr
        return Schedule(before, slow, after, factor, self.warmup_steps, self.lr_plan)

    def setup(self, stage: str) -> None:
        """Makes the pools. Only training needs them, and their size depends on the data."""
        if stage == 'fit' and self.pool_size != 0:
            pairs = pairs_of(self.trainer)
            self.pools = NeighborPools.for_data(
                ('image', 'text'), self.pool_size, self.width, len(pairs.partition), pairs.batch_size
            )
            self._ddp_params_and_buffers_to_ignore = self.pools.buffer_names('pools')

    def losses(self, image: Tensor, text: Tensor, cross_modal: int) -> dict[str, Tensor]:
        terms = {}
        if cross_modal:
            terms['cross_modal'] = self.cross_modal_loss(image[:, :cross_modal], text[:, :cross_modal])
        if cross_modal < image.shape[1]:
            both = self.unimodal_loss(image[:, cross_modal:], 'image') + self.unimodal_loss(
                text[:, cross_modal:], 'text'
            )
            terms['unimodal'] = both / 2
        return terms

    def unimodal_loss(self, views: Tensor, modality: str) -> Tensor:
        """Nearest-neighbor contrastive loss of one modality (Eq. 2), of two embedded views (2, b, D)."""
        everyone = [self.gather(view) for view in views]
        if self.pool_size == 0:
            return self._between(views[1], everyone[1].rows, views[0], everyone[0].rows, everyone[0].first)
        pool: Any = self.pools[modality]
        terms = []
        for anchor, other in ((0, 1), (1, 0))[: 2 if self.nn_roles == 'both' else 1]:
            # For all ranks at once: their pools agree, so nothing needs to be sent.
            near, _ = pool.nearest(everyone[anchor].rows)
            first = everyone[anchor].first
            own = near[first : first + views.shape[1]]
            terms.append(self._between(views[other], everyone[other].rows, own, near, first))
        pool.enqueue(everyone[0].rows)
        return sum(terms[1:], terms[0]) / len(terms)

    def _between(self, view: Tensor, all_view: Tensor, near: Tensor, all_near: Tensor, first: int) -> Tensor:
        return nearest_neighbor_loss(view, near, self.logit_scale, self.nn_direction, all_view, all_near, first)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.pools.adopt(checkpoint['state_dict'], 'pools', is_training=self.trainer.state.fn == 'fit')
