"""RoCLIP (Yang et al., NeurIPS 2023): every few epochs, train images with captions of a pool instead of their own."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from datamodules.contracts import pairs_of
from datamodules.usage_error import check_number
from lightning_modules.clip import CLIP, Pairs
from lightning_modules.frozen_towers import TEMPERATURE
from lightning_modules.neighbor_pool import NeighborPool, NeighborPools, PoolSize
from lightning_modules.recompute import recompute

FillPool = Literal['each_epoch', 'matching_epochs']
TextGradient = Literal['frozen', 'zero', 'matched']


class RoCLIP(CLIP):
    """CLIP that in every k-th epoch matches each image with the most similar caption of a pool.

    The pool holds the captions of the latest batches. An image is matched before its own caption enters, so a poisoned
    image is hardly ever trained with the caption that was planted on it. All other epochs are CLIP's.

    The pool of the released code starts as noise; this one starts empty, and images keep their own captions until the
    first batch is in it. Several images of a batch may be matched with one caption, and no loss tells them apart.

    Args:
        match_every: Every how many epochs the images are matched: epochs k, 2k, ..., counted from 1 (2 in SafeCLIP's
            comparison). With ``1``, no epoch is CLIP's.
        match_first_epoch: Match in the first epoch too, before any planted caption has been learned.
        pool_size: Captions in the pool. ``auto`` takes 2 % of the pairs, at least four batches and at most 65,536.
        fill_pool: Epochs whose captions enter the pool. With ``matching_epochs``, as in the released code, a matching
            epoch begins with the captions of the one before, as embedded then.
        text_gradient: What matching epochs do to the text tower. ``frozen`` leaves it as it is. ``zero`` gives it a
            gradient of 0, as the released code does, so that momentum and weight decay still move it. ``matched``
            embeds the captions that were matched anew and trains the tower on them.
        **kwargs: Arguments of :class:`CLIP`. With two ``views``, each view of an image is matched on its own.
    """

    def __init__(
        self,
        match_every: int = 2,
        match_first_epoch: bool = False,
        pool_size: PoolSize = 'auto',
        fill_pool: FillPool = 'each_epoch',
        text_gradient: TextGradient = 'frozen',
        **kwargs: Any,
    ) -> None:
        check_number('model.match_every', match_every, '[1, inf)')
        check_number('model.pool_size', None if pool_size == 'auto' else pool_size, '[1, inf)')
        super().__init__(**kwargs)
        self.match_every, self.match_first_epoch = match_every, match_first_epoch
        self.pool_size, self.fill_pool, self.text_gradient = pool_size, fill_pool, text_gradient
        self.pools = NeighborPools()

    def phase(self, epoch: int) -> str:
        is_matching = (epoch + 1) % self.match_every == 0 or (epoch == 0 and self.match_first_epoch)
        return 'matching' if is_matching else 'clip'

    @property
    def is_matching(self) -> bool:
        """Whether this epoch matches images with captions of the pool."""
        return self.phase(self.current_epoch) == 'matching'

    def setup(self, stage: str) -> None:
        """Builds the pool: here, because its size depends on the data, and only for training."""
        super().setup(stage)
        if stage == 'fit':
            pairs = pairs_of(self.trainer)
            self._build_pools(len(pairs.partition), pairs.batch_size)
            self._ddp_params_and_buffers_to_ignore = self.pools.buffer_names('pools')

    def _build_pools(self, pairs: int, batch_size: int) -> None:
        """Two rings that turn together: an index into the embeddings leads back to the tokens of the caption."""
        self.pools = NeighborPools.for_data(('text',), self.pool_size, self.width, pairs, batch_size)
        size = len(self.pools['text'].rows)
        self.pools['tokens'] = NeighborPool(size, self.context_length, torch.int32)

    def partners(self, batch: Pairs, image: Tensor, text: Tensor) -> Tensor:
        partners = self.match(batch, image, text) if self.is_matching else text
        if self.is_matching or self.fill_pool == 'each_epoch':
            self._enqueue(text[0], batch.tokens[0])
        return partners

    def match(self, batch: Pairs, image: Tensor, text: Tensor) -> Tensor:
        """The most similar captions of the pool, or the images' own while it is empty.

        Args:
            batch: The pairs; of them only the tokens are used.
            image: Unit-norm embeddings of the views of the images, (V, B, D).
            text: Unit-norm embeddings of the views of their captions, (V, B, D).

        Returns:
            Unit-norm embeddings, (V, B, D).
        """
        pool, pooled_tokens = self.pools['text'], self.pools['tokens']
        with torch.autocast(self.device.type, enabled=False):  # in bfloat16 similar captions would tie
            matched, index = pool.nearest(image.flatten(0, 1), self.tile_size)
        has_match = (index >= 0)[:, None]
        if self.text_gradient == 'matched':
            tokens = pooled_tokens.rows[index].long().where(has_match, batch.tokens.flatten(0, 1))
            return self._encode_matched(tokens).view_as(image)
        matched = matched.where(has_match, text.flatten(0, 1)).view_as(image)
        return matched + zero_with_gradient(text_weights(self.towers))

    def _encode_matched(self, tokens: Tensor) -> Tensor:
        if self.chunk_size is None or self.chunk_size >= len(tokens):
            return self.encode_text(tokens)
        chunks = tokens.tensor_split(math.ceil(len(tokens) / self.chunk_size))
        return torch.cat([recompute(self.encode_text, chunk) for chunk in chunks])

    def _embed_chunk(self, image: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        if not self.is_matching:
            return super()._embed_chunk(image, tokens)
        images = self.encode_image(image.flatten(0, 1))
        with torch.no_grad():  # the images' own captions only enter the pool
            texts = self.encode_text(tokens.flatten(0, 1))
        return images.view(*image.shape[:2], -1), texts.view(*tokens.shape[:2], -1)

    @torch.no_grad()
    def _enqueue(self, text: Tensor, tokens: Tensor) -> None:
        """Adds the captions of all processes to the pool: embeddings (B, D) and tokens (B, T)."""
        for name, rows in (('text', text), ('tokens', tokens)):
            self.pools[name].enqueue(self.gather(rows).rows)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.is_matching and self.text_gradient == 'frozen':
            for weight in text_weights(self.towers):
                weight.grad = None  # a gradient of 0 would let AdamW go on with momentum and decay

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.pools.adopt(checkpoint['state_dict'], 'pools', is_training=self.trainer.state.fn == 'fit')


def text_weights(towers: nn.Module) -> list[nn.Parameter]:
    """Weights of an open_clip model that are trained, without those of the image tower and the temperature."""
    named = towers.named_parameters()
    others = [weight for name, weight in named if not name.startswith('visual.') and name not in TEMPERATURE]
    return [weight for weight in others if weight.requires_grad]


def zero_with_gradient(weights: Iterable[Tensor]) -> Tensor:
    """The number 0 whose gradient for each weight is 0, for DDP, which waits for the gradient of every weight."""
    return torch.stack([weight.sum() for weight in weights]).sum() * 0
