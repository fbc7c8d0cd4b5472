"""SafeCLIP (Yang et al., ICML 2024): train across modalities only on pairs whose image and caption already agree."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from datamodules.contracts import pairs_of
from datamodules.usage_error import UsageError, check_number
from lightning_modules.clip import CLIP
from lightning_modules.losses import Direction, nearest_neighbor_loss
from lightning_modules.neighbor_pool import NeighborPools, PoolSize
from lightning_modules.schedules import Plan, Schedule, auto_slow_factor

Auto = Literal['auto']


class SafeCLIP(CLIP):
    """CLIP that first trains each modality on its own, then trains across modalities on safe pairs only.

    Training has three phases. ``unimodal`` trains each modality against its own nearest neighbors (Eq. 2). ``slow``
    trains with the CLIP loss at a small learning rate; after it, clean pairs are more similar than poisoned ones.
    ``mixed`` trains safe pairs with the CLIP loss and risky pairs with the unimodal loss (Eq. 3 and 4). A callback
    splits the pairs. Without it every pair stays safe, which gives a control that the paper lacks: the same warm-up,
    views and steps, but no partition. Pairs that the user vouches for, ``data.trusted``, are trained with the CLIP loss
    in the unimodal phase too, and are always safe.

    Args:
        unimodal_epochs: Epochs of the unimodal phase (paper: 5).
        slow_epochs: Epochs of the slow phase (paper: 1). With 0 or 2, poisons leak into the first safe set (Table 3).
        extra_slow_epochs: Epochs by which the slow phase may be extended while the split cannot be trusted. They come
            off the mixed phase.
        slow_lr: Learning rate of the slow phase. ``auto`` takes ``lr * clip(10 / steps, 0.01, 0.3)``: the paper's
            ``0.01 * lr`` on a million pairs or more, and enough to separate the pairs of a set of ten thousand.
        pool_size: Embeddings in the pool of each modality, from which nearest neighbors come. ``auto`` takes 2 % of
            the pairs, at least four batches and at most 65,536 (the paper does not give a size). ``0`` pairs the two
            views directly ("No NN" in Table 5).
        nn_direction: Anchor of the unimodal loss: ``nn_rows`` takes the neighbors, as in the paper, ``view_rows`` the
            views, as in the released code, ``symmetric`` the mean of both.
        nn_roles: Views that are replaced by their neighbors. ``both`` replaces each view in turn. ``first`` replaces
            only view 1, as in the released code; view 1 then gets no gradient, but costs as much as if it did, since
            batch normalization sees both views together.
        in_modal: Train on risky pairs. ``false`` skips them ("No CL" in Table 5).
        lr_plan: Learning rate around the slow phase. ``global`` runs one warm-up and one cosine over all steps except
            the slow ones. ``restart_at_mixed`` gives the phases before and after the slow one a warm-up and a cosine
            each.
        **kwargs: Arguments of :class:`CLIP`. ``views`` applies to safe pairs; unimodal steps always take two views.

    Attributes:
        extended_by: Epochs by which the slow phase has been extended so far.
        unimodal_from: Epoch from which on every epoch is unimodal; ``None`` unless the split could not be trusted.
    """

    uses_trusted_pairs = True

    terms = ('cross_modal', 'unimodal')

    def __init__(
        self,
        unimodal_epochs: int = 5,
        slow_epochs: int = 1,
        extra_slow_epochs: int = 0,
        slow_lr: float | Auto = 'auto',
        pool_size: PoolSize = 'auto',
        nn_direction: Direction = 'symmetric',
        nn_roles: Literal['both', 'first'] = 'both',
        in_modal: bool = True,
        lr_plan: Plan = 'global',
        **kwargs: Any,
    ) -> None:
        epochs = {'unimodal': unimodal_epochs, 'slow': slow_epochs, 'extra_slow': extra_slow_epochs}
        for name, value in epochs.items():
            check_number(f'model.{name}_epochs', value, '[0, inf)')
        check_number('model.slow_lr', None if slow_lr == 'auto' else slow_lr, '[0, inf)')
        check_number('model.pool_size', None if pool_size == 'auto' else pool_size, '[0, inf)')
        super().__init__(**kwargs)
        if self.lr == 0 and slow_lr != 'auto':
            raise UsageError('model.slow_lr is a fraction of model.lr, which is 0: raise model.lr.')
        self.unimodal_epochs, self.slow_epochs, self.slow_lr = unimodal_epochs, slow_epochs, slow_lr
        self.extra_slow_epochs, self.extended_by = extra_slow_epochs, 0
        self.unimodal_from: int | None = None
        self.pool_size, self.nn_direction, self.nn_roles = pool_size, nn_direction, nn_roles
        self.in_modal, self.lr_plan = in_modal, lr_plan
        self.pools = NeighborPools()

    def phase(self, epoch: int) -> str:
        if epoch < self.unimodal_epochs or (self.unimodal_from is not None and epoch >= self.unimodal_from):
            return 'unimodal'
        return 'slow' if epoch < self.unimodal_epochs + self.slow_epochs + self.extended_by else 'mixed'

    def extend_slow_phase(self) -> bool:
        """Makes the slow phase an epoch longer; ``False`` if it has been extended by ``extra_slow_epochs`` already."""
        if self.extended_by >= self.extra_slow_epochs:
            return False
        self.extended_by += 1
        return True

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.restart_schedules()  # the last step has set a rate before the slow phase was extended

    def sides(self, epoch: int) -> dict[str, int]:
        phase = self.phase(epoch)
        if phase == 'unimodal':
            return {'trusted': self.views, 'within_modal': 2}
        within = {} if phase == 'slow' else {'within_modal': 2 * self.in_modal}
        return {'cross_modal': self.views, **within}

    def schedule(self, steps_per_epoch: int, epochs: int) -> Schedule:
        before, slow = (min(n, epochs) * steps_per_epoch for n in (self.unimodal_epochs, self.slow_epochs))
        after = max(0, epochs * steps_per_epoch - before - slow)
        factor = auto_slow_factor(slow) if self.slow_lr == 'auto' else float(self.slow_lr) / self.lr
        extended = min(after, self.extended_by * steps_per_epoch)
        return Schedule(before, slow, after, factor, self.warmup_steps, self.lr_plan, extended)

    def setup(self, stage: str) -> None:
        """Builds the pools: here, because their size depends on the data, and only for training."""
        super().setup(stage)
        trainer: Any = self.trainer  # whose type lacks fast_dev_run, which sets max_steps
        if stage == 'fit' and trainer.max_steps != -1 and not trainer.fast_dev_run:
            raise UsageError(
                'trainer.max_steps would end the slow phase later than its learning rates: set trainer.max_epochs.'
            )
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
            image_loss = self.unimodal_loss(image[:, cross_modal:], 'image')
            text_loss = self.unimodal_loss(text[:, cross_modal:], 'text')
            terms['unimodal'] = (image_loss + text_loss) / 2
        return terms

    def unimodal_loss(self, views: Tensor, modality: str) -> Tensor:
        """Nearest-neighbor contrastive loss of one modality (Eq. 2), of two embedded views (2, b, D)."""
        gathered = [self.gather(view) for view in views]
        if self.pool_size == 0:
            return self._neighbor_loss(views[1], gathered[1].rows, views[0], gathered[0].rows, gathered[0].first)
        pool = self.pools[modality]
        terms = []
        for replaced, other in ((0, 1), (1, 0))[: 2 if self.nn_roles == 'both' else 1]:
            # Looked up for all ranks: their pools are equal, so each computes the same neighbors and sends nothing.
            all_neighbors, _ = pool.nearest(gathered[replaced].rows, self.tile_size)
            first = gathered[replaced].first
            neighbors = all_neighbors[first : first + views.shape[1]]
            terms.append(self._neighbor_loss(views[other], gathered[other].rows, neighbors, all_neighbors, first))
        pool.enqueue(gathered[0].rows)
        return sum(terms[1:], terms[0]) / len(terms)

    def _neighbor_loss(
        self, view: Tensor, all_view: Tensor, neighbors: Tensor, all_neighbors: Tensor, first: int
    ) -> Tensor:
        return nearest_neighbor_loss(
            view, neighbors, self.logit_scale, self.nn_direction, all_view, all_neighbors, first, self.tile_size
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint['phases'] = {'extended_by': self.extended_by, 'unimodal_from': self.unimodal_from}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if self.trainer.state.fn == 'fit' and (phases := checkpoint.get('phases')):
            self.extended_by, self.unimodal_from = phases['extended_by'], phases['unimodal_from']
        self.pools.adopt(checkpoint['state_dict'], 'pools', is_training=self.trainer.state.fn == 'fit')
