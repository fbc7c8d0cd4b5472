"""Pairs that cannot be learned: noise on pictures and words in captions that leave a model little to learn from them.

Multi-step Error Minimization (MEM; Liu et al., 2024), with error-minimizing noise (EM; Huang et al., 2021) and
untargeted adversarial perturbations (UAP) as its baselines. One epoch of the trainer is one round: a surrogate model is
trained for some steps on the protected pairs, then every pair gets new words and new noise that lower its loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor

from datamodules.protection import Granularity, Place, Protection, ProtectionSettings, Start, protection_of
from datamodules.usage_error import SEEDS, UsageError, check_number
from lightning_modules.adversarial import pixel_gradient
from lightning_modules.caption_triggers import insert_trigger
from lightning_modules.clip import CLIP, Gathered, Pairs, embed
from lightning_modules.hotflip import best_candidates, embedding_of, hotflip_scores, token_embeddings
from lightning_modules.losses import info_nce
from lightning_modules.noise_steps import LEVELS, add_noise, bounds, perturb
from lightning_modules.normalization import from_pixels
from lightning_modules.schedules import Schedule
from lightning_modules.trigger_search import accept_best, batch_losses, replaced_losses, search_by_pair, search_by_rank

CAPTIONS_AT_ONCE = 4096  # of candidates that are embedded together
NOISE = 'noise'  # in a checkpoint: where the store is


class Captions(NamedTuple):
    """Captions of a batch without triggers, (B, T), and where in each of them its trigger begins, (B,)."""

    tokens: Tensor
    place: Tensor

    def with_trigger(self, trigger: Tensor) -> Tensor:
        """Tokens of the captions with triggers (..., B, n) in them, (..., B, T)."""
        sets = trigger.flatten(0, -3) if trigger.ndim > 2 else trigger[None]
        tokens, place = self.tokens.repeat(len(sets), 1), self.place.repeat(len(sets))
        return insert_trigger(tokens, place, sets.flatten(0, 1)).view(*trigger.shape[:-1], -1)


class Batch(NamedTuple):
    """A batch of a sweep. All processes know its rows, captions and triggers; each has the pictures of its own rows.

    Attributes:
        number: Its number among the batches of the round.
        rows: Rows of the pairs, (B,).
        own: Which of them are those of this process.
        pictures: Clean pictures of these, uint8 (b, 3, H, W).
        captions: Captions of all pairs.
    """

    number: int
    rows: np.ndarray
    own: slice
    pictures: Tensor
    captions: Captions

    @property
    def own_captions(self) -> Captions:
        return Captions(*(part[self.own] for part in self.captions))


class MEM(CLIP):
    """Makes pairs unlearnable by Multi-step Error Minimization (Liu et al., 2024).

    Trains a surrogate and writes noise and trigger words of the training pairs into a store, which ``clipward protect``
    turns into pictures and captions. ``trainer.max_epochs`` is the number of rounds, 20 in the paper. Pictures are
    protected at the size that the model takes, without augmentation. A run without surrogate steps writes no
    checkpoints, because nothing is trained; if it is killed, it starts anew.

    Args:
        surrogate_steps: Steps of the surrogate in a round.
        noise_steps: Steps of the noise in a round, each on the gradient's sign (Madry et al., 2018).
        step: Length of such a step in levels of 255.
        eps: Largest noise in levels of 255, at most 127.
        shuffle_captions: Compare each picture with the caption of another pair while its noise is searched, in which
            only the trigger is its own, so that noise and trigger stick together.
        granularity: What shares one noise and one trigger. ``image``: all pairs of equal pictures, so that one picture
            can be published. ``row``: none, as in the paper. ``class``: all pictures of a class, by their labels.
        noise_start: Noise before the first round: ``zero``, or ``random`` whole levels up to ``eps``.
        averaged_views: Random crops and flips of a picture that the gradient for its noise is averaged over, so that
            the noise survives them (AUE; Wang et al., 2024). 0 takes the picture as it is.
        text_rounds: Rounds, from the first on, in which triggers are searched.
        trigger_length: Words of a trigger, 3 or 5 in the paper; 0 for none.
        trigger_place: Where in a caption its trigger is: ``start``, ``end``, or ``random``, between any two words. With
            ``end`` every caption must leave room for it; else a long caption loses its last words.
        trigger_start: Words before the first round: ``the``, ``a``, or ``random`` words, as in the released code.
        candidates: Words that are tried for each place of a trigger.
        beam: Triggers that are kept from place to place while one is searched.
        selection: ``batch``: all pairs of a batch take their candidate of the same rank, as in the released code.
            ``row``: each pair takes the one that lowers the loss of the batch most, if all do.
        store: Folder of noise and triggers. Defaults to ``noise`` in the folder of the run; when a run is resumed, to
            where its checkpoint says.
        seed: Seed of batches, of shuffled captions and of random noise and triggers.
        lr: Learning rate of the surrogate, constant.
        weight_decay: Weight decay of its matrices.
        **kwargs: Further arguments of :class:`CLIP`. Without ``init_from`` or ``pretrained`` the surrogate is random.

    Attributes:
        protection: Noise and triggers of the training pairs.
    """

    assumes_clean_pairs = True
    direction = 1  # of the steps of the noise: down the loss
    protection: Protection

    def __init__(
        self,
        surrogate_steps: int = 200,
        noise_steps: int = 8,
        step: int = 1,
        eps: int = 8,
        shuffle_captions: bool = True,
        granularity: Granularity = 'image',
        noise_start: Literal['zero', 'random'] = 'zero',
        averaged_views: int = 0,
        text_rounds: int = 5,
        trigger_length: int = 3,
        trigger_place: Place = 'start',
        trigger_start: Start = 'the',
        candidates: int = 16,
        beam: int = 1,
        selection: Literal['batch', 'row'] = 'batch',
        store: str | None = None,
        seed: int = 0,
        lr: float = 1e-4,
        weight_decay: float = 0.2,
        **kwargs: Any,
    ) -> None:
        check_levels('model.eps', eps, '[0, 127]')
        check_levels('model.step', step, '[1, 127]')
        counts = {'surrogate_steps': surrogate_steps, 'noise_steps': noise_steps, 'averaged_views': averaged_views}
        for name, count in {**counts, 'text_rounds': text_rounds, 'trigger_length': trigger_length}.items():
            check_number(f'model.{name}', count, '[0, inf)')
        for name, count in {'candidates': candidates, 'beam': beam}.items():
            check_number(f'model.{name}', count, '[1, inf)')
        check_number('model.seed', seed, SEEDS)
        if shuffle_captions and noise_steps and not trigger_length:
            raise UsageError(
                'model.shuffle_captions compares a picture with the caption of another pair, which has nothing of its '
                'own with model.trigger_length=0: set model.shuffle_captions=false, or use EM.'
            )
        super().__init__(lr=lr, weight_decay=weight_decay, **kwargs)
        if self.views != 1 or self.chunk_size is not None:
            raise UsageError('noise takes one view of whole batches: leave model.views at 1 and model.chunk_size null.')
        self.automatic_optimization = False
        self.surrogate_steps, self.noise_steps, self.step = surrogate_steps, noise_steps, step
        self.shuffle_captions, self.averaged_views = shuffle_captions, averaged_views
        self.text_rounds = text_rounds if trigger_length else 0
        self.candidates, self.beam, self.selection = candidates, beam, selection
        self.folder, self.resumed_folder = store, cast(str | None, None)
        self.settings = ProtectionSettings(
            type(self).__name__, eps, granularity, noise_start, trigger_length, trigger_place,
            trigger_start, seed,
        )  # fmt: skip

    # --- rounds -----------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.trainer.precision == '16-mixed':
            raise UsageError('trainer.precision=16-mixed loses small gradients of pixels: use bf16-mixed or 32-true.')
        if not cast(Any, self.trainer).fast_dev_run:  # which sets both
            if self.trainer.limit_train_batches != 1.0:
                raise UsageError('trainer.limit_train_batches would leave pairs without noise: leave it at 1.0.')
            if self.trainer.max_steps != -1:
                raise UsageError('trainer.max_steps would end a round early: set trainer.max_epochs.')
        if self.trainer.num_nodes > 1:  # a network file system would write whole pages, with old values of other rows
            raise UsageError(
                f'{type(self).__name__} writes noise into one file, so all processes must be on one machine: set '
                f'trainer.num_nodes=1.'
            )
        if stage == 'fit':
            self.protection = protection_of(self.trainer, self.settings)

    def phase(self, epoch: int) -> str:
        return 'words' if epoch < self.text_rounds else 'noise'

    def schedule(self, steps_per_epoch: int, epochs: int) -> Schedule:
        return Schedule(0, steps_per_epoch * epochs, 0)  # constant, as in the released code

    def draws(self, epoch: int) -> list[Any]:
        """This process's part of the batches of a round, which the datamodule loads as they are stored."""
        trainer = self.trainer
        return self.protection.draws(epoch, self.surrogate_steps, trainer.global_rank, trainer.world_size)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        default = Path(self.trainer.log_dir or self.trainer.default_root_dir) / NOISE
        folder = Path(self.folder or self.resumed_folder or default)
        if self.resumed_folder is None:
            self._start(folder)
        self.protection.open(folder)

    def _start(self, folder: Path) -> None:
        self.protection.check_unused(folder)
        self.trainer.strategy.barrier()  # all processes refuse it, or none does
        if self.trainer.is_global_zero:
            self.protection.start(folder)
        self.trainer.strategy.barrier()

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.batches = self.protection.plan_round(self.current_epoch, self.surrogate_steps)
        self.protection.store.begin(self.current_epoch, writes_sidecar=self.trainer.is_global_zero)
        self.trainer.strategy.barrier()  # nobody writes before the sidecar says so

    def on_train_epoch_end(self) -> None:
        self.protection.store.flush()
        self.trainer.strategy.barrier()
        self.protection.store.end(writes_sidecar=self.trainer.is_global_zero)

    def training_step(self, batch: Pairs, batch_idx: int) -> dict[str, Tensor] | None:  # type: ignore[override]
        """Trains the surrogate on a batch, or finds words and noise for it.

        Args:
            batch: Pictures as they are stored, uint8 (b, 3, H, W), and tokens of captions without triggers.
            batch_idx: Number of the batch in its round.
        """
        is_of_surrogate = batch_idx < self.surrogate_steps
        self.train(is_of_surrogate)
        whole = self._whole(batch, batch_idx)
        if is_of_surrogate:
            return self._train_surrogate(batch, whole, batch_idx)
        if batch_idx == self.surrogate_steps:
            self.stop_if_diverged()
        self._protect(whole)
        return None

    def _whole(self, batch: Pairs, number: int) -> Batch:
        rows, protection = self.batches[number], self.protection
        first, count = sum(self._shares(len(rows))[: self.global_rank]), len(batch.row)
        tokens = torch.from_numpy(protection.tokens[rows].astype(np.int64)).to(self.device)
        place = torch.from_numpy(protection.place[rows].astype(np.int64)).to(self.device)
        return Batch(number, rows, slice(first, first + count), batch.image, Captions(tokens, place))

    def _shares(self, pairs: int) -> list[int]:
        """Number of pairs of a batch that each process takes, as :func:`datamodules.rows.rounds.share` gives them."""
        return [len(part) for part in np.array_split(np.empty(pairs), self.trainer.world_size)]

    def _stored_triggers(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(self.protection.store.trigger(rows).astype(np.int64)).to(self.device)

    def _stored_noise(self, units: np.ndarray) -> Tensor:
        return torch.from_numpy(self.protection.store.noise(units)).to(self.device).short()

    def _protected(self, batch: Batch) -> Tensor:
        """Pictures of this process with the noise that they have so far, normalized, (b, 3, H, W)."""
        noise = self._stored_noise(self.protection.unit[batch.rows[batch.own]])
        return from_pixels(add_noise(batch.pictures, noise).float() / LEVELS)

    def _train_surrogate(self, batch: Any, whole: Batch, batch_idx: int) -> dict[str, Tensor]:
        trigger = self._stored_triggers(whole.rows[whole.own])
        tokens = whole.own_captions.with_trigger(trigger)
        step = super().training_step(batch._replace(image=self._protected(whole)[None], tokens=tokens[None]), batch_idx)
        optimizer = cast(LightningOptimizer, self.optimizers())
        optimizer.zero_grad()
        self.manual_backward(step['loss'])
        optimizer.step()
        return step

    def _protect(self, batch: Batch) -> None:
        """Finds words and noise for a batch, and stores them."""
        store, trigger = self.protection.store, self._stored_triggers(batch.rows)
        if self.current_epoch < self.text_rounds:
            trigger = self._search_triggers(batch, trigger)
        noise = self._search_noise(batch, trigger)
        own = batch.rows[batch.own]
        store.write(own, noise.to(torch.int8).cpu().numpy(), trigger[batch.own].cpu().numpy())
        store.mark_written(batch.rows)
        self.trainer.strategy.barrier()  # the next batch may hold the same picture, on another process

    # --- words ------------------------------------------------------------------------------------------------------

    def _search_triggers(self, batch: Batch, trigger: Tensor) -> Tensor:
        """Triggers of all pairs of a batch, (B, n), with which its loss is not higher than with the present ones."""
        with torch.no_grad():
            image = self._gather_shares(self.encode_image(self._protected(batch)), batch).rows
        own = self._candidates(batch, trigger, image)
        search = self._search_for_batch if self.selection == 'batch' else self._search_for_rows
        found = search(batch, image, trigger, self._gather_shares(own, batch).rows)
        if self._is_logged():
            before, after = self._losses_with(batch, image, torch.stack([trigger, found]))
            self.log_dict({'train/words_before': before, 'train/words_after': after}, batch_size=len(batch.rows))
        return found

    def _candidates(self, batch: Batch, trigger: Tensor, image: Tensor) -> Tensor:
        """Words to try in each slot of the triggers of this process, int64 (b, n, k)."""
        captions, trigger = batch.own_captions, trigger[batch.own]
        with token_embeddings(self.towers) as leaves:
            text = embed(self.towers.encode_text, captions.with_trigger(trigger))
        with self._exact():
            loss = info_nce(image, self._gather_shares(text, batch).rows, self.logit_scale, tile_size=self.tile_size)
            gradient = pixel_gradient(loss, leaves[0])  # (b, T, W)
            slot = captions.place[:, None] + torch.arange(trigger.shape[1], device=self.device)
            gradient = gradient.gather(1, slot[..., None].expand(-1, -1, gradient.shape[-1]))
            gradient = self._sum_in_units(gradient, batch)
            allowed = torch.from_numpy(self.protection.allowed).to(self.device)
            scores = hotflip_scores(gradient, embedding_of(self.towers).weight[allowed].detach())
            return best_candidates(scores, allowed, self.candidates)

    def _search_for_batch(self, batch: Batch, image: Tensor, trigger: Tensor, candidates: Tensor) -> Tensor:
        return search_by_rank(trigger, candidates, lambda tried: self._losses_with(batch, image, tried), self.beam)

    def _search_for_rows(self, batch: Batch, image: Tensor, trigger: Tensor, candidates: Tensor) -> Tensor:
        own, old = batch.own, self._embed_words(batch, trigger[None, batch.own])[0]
        text = self._gather_shares(old, batch).rows

        def losses(tried: Tensor) -> Tensor:
            options = self._embed_words(batch, tried.transpose(0, 1)).transpose(0, 1)
            with self._exact():
                return replaced_losses(image, text, self.logit_scale, options, own.start)

        _, first, unit = np.unique(self.protection.unit[batch.rows], return_index=True, return_inverse=True)
        found = self._gather_shares(search_by_pair(trigger[own], candidates[own], losses, self.beam), batch).rows
        found = found[torch.from_numpy(first[unit]).to(self.device)]  # of pairs that share a trigger, the first decides
        new = self._gather_shares(self._embed_words(batch, found[None, own])[0], batch).rows
        with self._exact():
            shared = torch.from_numpy(unit).to(self.device)
            is_accepted = self._agree(accept_best(image, text, new, self.logit_scale, shared))
        return torch.where(is_accepted[:, None], found, trigger)

    def _losses_with(self, batch: Batch, image: Tensor, triggers: Tensor) -> Tensor:
        """Loss of a batch with each of several sets of triggers (m, B, n), (m,)."""
        own = self._embed_words(batch, triggers[:, batch.own])  # (m, b, D)
        text = self._gather_shares(own.transpose(0, 1), batch).rows.transpose(0, 1)
        with self._exact():
            return self._agree(batch_losses(image, text, self.logit_scale))

    @torch.no_grad()
    def _embed_words(self, batch: Batch, triggers: Tensor) -> Tensor:
        """Embeddings of this process's captions with each of several sets of triggers (m, b, n), (m, b, D)."""
        captions, at_once = batch.own_captions, max(1, CAPTIONS_AT_ONCE // triggers.shape[1])
        parts = [captions.with_trigger(part).flatten(0, 1) for part in triggers.split(at_once)]
        return torch.cat([self.encode_text(part) for part in parts]).view(*triggers.shape[:2], -1)

    # --- noise ------------------------------------------------------------------------------------------------------

    def _search_noise(self, batch: Batch, trigger: Tensor) -> Tensor:
        """Noise of the pictures of this process in levels, int16 (b, 3, H, W)."""
        gradient, eps = self._gradient(batch, trigger), self.settings.eps
        low, high = bounds(batch.pictures.short(), eps)
        if self.settings.granularity == 'class':  # whose pictures have different ranges
            low, high = torch.full_like(low, -eps), torch.full_like(high, eps)

        def summed(noise: Tensor, number: int) -> Tensor:
            return self._sum_in_units(gradient(noise, number), batch)

        noise = self._stored_noise(self.protection.unit[batch.rows[batch.own]])
        return perturb(noise, summed, self.noise_steps, self.direction * self.step, low, high)

    def _gradient(self, batch: Batch, trigger: Tensor) -> Callable[[Tensor, int], Tensor]:
        """Maps noise of the pictures of this process, and the number of a step, to the gradient of the batch's loss."""
        unshuffled = None if self.shuffle_captions else self._embed_shuffled(batch, trigger, None)

        def gradient(noise: Tensor, number: int) -> Tensor:
            text = self._embed_shuffled(batch, trigger, number) if unshuffled is None else unshuffled
            levels = add_noise(batch.pictures, noise).float().requires_grad_()
            total = torch.zeros_like(levels)
            for shown in self._shown(batch, levels, number):
                loss = self._noise_loss(batch, shown, text)
                total += pixel_gradient(loss, levels)
            if number == self.noise_steps - 1 and self._is_logged():
                self.log('train/noise_loss', loss.detach(), batch_size=len(batch.rows))
            return total

        return gradient

    def _noise_loss(self, batch: Batch, pixels: Tensor, text: Tensor) -> Tensor:
        image = self.encode_image(from_pixels(pixels))
        with self._exact():
            gathered = self._gather_shares(image, batch).rows
            return info_nce(gathered, text, self.logit_scale, tile_size=self.tile_size)

    def _shown(self, batch: Batch, levels: Tensor, number: int) -> Iterator[Tensor]:
        """The views of pictures that a step averages over, in [0, 1]."""
        if not self.averaged_views:
            yield levels / LEVELS
        row = torch.from_numpy(batch.rows[batch.own]).to(self.device)
        for view in range(self.averaged_views):
            step = self.current_epoch * self.noise_steps + number
            yield self.protection.crop_and_flip(levels, row, step, view)

    @torch.no_grad()
    def _embed_shuffled(self, batch: Batch, trigger: Tensor, number: int | None) -> Tensor:
        """Embeddings of all captions, (B, D): each pair's trigger in the caption of another, drawn for each step."""
        captions = batch.captions
        if number is not None:
            order = self.protection.shuffle(len(trigger), self.current_epoch, batch.number, number).to(self.device)
            captions = Captions(captions.tokens[order], captions.place[order])
        own = Captions(captions.tokens[batch.own], captions.place[batch.own])
        return self._gather_shares(self.encode_text(own.with_trigger(trigger[batch.own])), batch).rows

    # --- helpers ----------------------------------------------------------------------------------------------------

    def _sum_in_units(self, gradient: Tensor, batch: Batch) -> Tensor:
        """Gradients of this process's pairs (b, ...), each the sum over all pairs of the batch that share its unit."""
        units, unit = np.unique(self.protection.unit[batch.rows], return_inverse=True)
        if len(units) == len(batch.rows):
            return gradient
        own = torch.from_numpy(unit[batch.own]).to(self.device)
        total = gradient.new_zeros(len(units), *gradient.shape[1:]).index_add(0, own, gradient)
        return (total if self.trainer.world_size == 1 else cast(Tensor, self.all_gather(total)).sum(0))[own]

    def _gather_shares(self, rows: Tensor, batch: Batch) -> Gathered:
        """Rows of all pairs of a batch, in order; those of this process keep their gradient.

        Every process computes the loss of the whole batch from them, so the gradient of its own rows is complete.
        """
        if self.trainer.world_size == 1:
            return Gathered(rows, 0)
        counts = self._shares(len(batch.rows))
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows.detach()
        gathered = cast(Tensor, self.all_gather(padded))
        parts = [part[:count] for part, count in zip(gathered, counts, strict=True)]
        parts[self.global_rank] = rows
        return Gathered(torch.cat(parts), batch.own.start)

    def _agree(self, values: Tensor) -> Tensor:
        """What the first process has computed."""
        return values if self.trainer.world_size == 1 else cast(Tensor, self.all_gather(values))[0]

    def _exact(self) -> torch.autocast:
        return torch.autocast(self.device.type, enabled=False)

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[NOISE] = str(self.protection.store.folder.resolve())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if self.trainer.state.fn == 'fit' and NOISE not in checkpoint:
            raise UsageError('ckpt_path is of a run that made no noise: start from its weights with model.init_from.')
        self.resumed_folder = checkpoint.get(NOISE)


class EM(MEM):
    """Makes pictures unlearnable by error-minimizing noise alone (Huang et al., 2021, on pairs as in MEM's paper).

    MEM without triggers and without shuffled captions, with the same budget unless told otherwise. With a
    ``trigger_length``, the words stay those of ``trigger_start``.

    Args:
        shuffle_captions: As in :class:`MEM`.
        text_rounds: As in :class:`MEM`.
        trigger_length: As in :class:`MEM`.
        **kwargs: Further arguments of :class:`MEM`.
    """

    def __init__(
        self, shuffle_captions: bool = False, text_rounds: int = 0, trigger_length: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(
            shuffle_captions=shuffle_captions, text_rounds=text_rounds, trigger_length=trigger_length, **kwargs
        )


class UAP(EM):
    """Makes pictures harder to learn by noise that raises the loss of a trained model, without a target.

    The model is that of ``init_from`` or ``pretrained``, and stays as it is.

    Args:
        surrogate_steps: As in :class:`MEM`.
        **kwargs: Further arguments of :class:`EM`.
    """

    direction = -1

    def __init__(self, surrogate_steps: int = 0, **kwargs: Any) -> None:
        super().__init__(surrogate_steps=surrogate_steps, **kwargs)

    def on_fit_start(self) -> None:
        if self.untrained:
            raise UsageError(
                'UAP raises the loss of a trained model: name it with model.init_from or model.pretrained.'
            )
        super().on_fit_start()


def check_levels(argument: str, value: Any, interval: str) -> None:
    """Refuses anything but a whole number of levels within an interval.

    Raises:
        UsageError: For anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(
            f'{argument} counts levels of 255 and must be a whole number, such as 8 for 8/255, got {value}.'
        )
    check_number(argument, value, interval)
