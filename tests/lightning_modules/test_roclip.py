from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from datamodules.text.eda import EDA
from datamodules.usage_error import UsageError
from lightning_modules.clip import CLIP
from lightning_modules.neighbor_pool import NeighborPool
from lightning_modules.roclip import RoCLIP, text_weights
from tests.helpers.tiny import TinyPairs, tiny_architecture, trainer
from tests.integration.runs import Died, Killer, Place, find_differences, last, load_outcome, raise_died

POOL = torch.tensor([[1.0, 0], [0, 1], [-1, 0]])
IMAGES = torch.tensor([[[0.8, 0.6], [0.6, 0.8]]])  # (V, B, D)
CAPTIONS = torch.tensor([[[0.0, -1], [-1, 0]]])
TOKENS = torch.tensor([[[1, 2, 3], [4, 5, 6]]])  # (V, B, T)
STEPS, BATCH = 4, 8


def roclip(folder: Path, **kwargs: Any) -> RoCLIP:
    torch.manual_seed(0)
    return RoCLIP(**{'architecture': tiny_architecture(folder, 'roclip'), 'match_every': 1, **kwargs})


def in_matching_epoch(model: RoCLIP, pool: Tensor | None = POOL) -> RoCLIP:
    """Prepares a model for calls of its parts: one process, a logit scale of 1, and the given captions in its pool."""
    model._trainer = SimpleNamespace(world_size=1, current_epoch=0)
    with torch.no_grad():
        model.towers.logit_scale.zero_()
    model.pools['text'], model.pools['tokens'] = NeighborPool(5, 2), NeighborPool(5, 3, torch.int32)
    if pool is not None:
        model._enqueue(pool, torch.arange(3 * len(pool)).view(-1, 3))
    return model


def pairs_in_step(model: RoCLIP, image: Tensor = IMAGES, text: Tensor = CAPTIONS) -> Tensor:
    """The captions that a step trains its images with."""
    return model.partners(SimpleNamespace(tokens=TOKENS), image, text)


def fit(model: CLIP, folder: Path, *callbacks: Callback, resume: Path | None = None, **settings: Any) -> L.Trainer:
    fitting = trainer(callbacks=[*callbacks], **settings)
    data = TinyPairs(cache_dir=str(folder / 'cache'), caption_views=EDA(alpha=0.3, operations=('swap',)))
    fitting.fit(model, data, ckpt_path=resume, weights_only=True)
    return fitting


class Watch(Callback):
    """Records what every step embeds and loses, and how full the pool and what the text tower is after each epoch."""

    def __init__(self) -> None:
        self.embedded: list[tuple[Tensor, Tensor]] = []
        self.scales: list[float] = []
        self.losses: list[float] = []
        self.filled: list[int] = []
        self.text: list[list[Tensor]] = []
        self.gradients: list[list[Tensor]] = []

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        embed = pl_module._embed

        def record_and_embed(batch: Any) -> tuple[Tensor, Tensor]:
            image, text = embed(batch)
            self.embedded.append((image[0].detach().double(), text[0].detach().double()))
            self.scales.append(float(pl_module.logit_scale.detach()))
            return image, text

        pl_module._embed = record_and_embed

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        self.gradients.append([weight.grad.clone() for weight in text_weights(pl_module.towers)])

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(outputs['loss'].detach()))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.filled.append(int(pl_module.pools['text'].filled))
        self.text.append([weight.detach().clone() for weight in text_weights(pl_module.towers)])


class TestPlan:
    def test_matches_in_every_kth_epoch(self, tmp_path: Path) -> None:
        plain, first = (roclip(tmp_path, match_every=2, match_first_epoch=option) for option in (False, True))
        matching = [epoch + 1 for epoch in range(24) if plain.phase(epoch) == 'matching']
        assert matching == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24]
        assert [epoch + 1 for epoch in range(24) if first.phase(epoch) == 'matching'] == [1, *matching]

    def test_without_a_matching_epoch_it_is_clip(self, tmp_path: Path) -> None:
        models = []
        for kind, settings in ((CLIP, {}), (RoCLIP, {'match_every': 3})):
            torch.manual_seed(0)
            models.append(kind(architecture=tiny_architecture(tmp_path, 'roclip'), **settings))
            fit(models[-1], tmp_path)
        assert find_differences(*(dict(model.towers.state_dict()) for model in models)) == []


class TestMatching:
    @pytest.mark.parametrize(
        ('pool', 'matched', 'loss'),
        [
            (POOL, [[1, 0], [0, 1]], 0.5981388694),
            (POOL[[0, 2]], [[1, 0], [1, 0]], 0.6956430249),  # two images cannot be told apart by one caption
            (torch.tensor([[1, 0], [0.8, 0.6], [-1, 0]]), [[0.8, 0.6], [0.8, 0.6]], None),
        ],
    )
    def test_an_image_is_trained_with_the_most_similar_caption(
        self, tmp_path: Path, pool: Tensor, matched: list[list[float]], loss: float | None
    ) -> None:
        model = in_matching_epoch(roclip(tmp_path), pool)
        partners = pairs_in_step(model)
        assert torch.allclose(partners[0], torch.tensor(matched, dtype=torch.float32))
        if loss is not None:
            total = model.losses(IMAGES, partners, 2)['cross_modal']
            assert total.item() == pytest.approx(loss, abs=1e-6)

    def test_the_caption_of_an_image_enters_the_pool_after_it_is_matched(self, tmp_path: Path) -> None:
        model = in_matching_epoch(roclip(tmp_path), POOL[2:])
        text = IMAGES.clone()  # each image's own caption would be the most similar
        assert pairs_in_step(model, text=text)[0].tolist() == [[-1, 0], [-1, 0]]
        assert torch.equal(pairs_in_step(model, text=text), IMAGES)

    def test_an_image_keeps_its_caption_while_the_pool_is_empty(self, tmp_path: Path) -> None:
        assert torch.equal(pairs_in_step(in_matching_epoch(roclip(tmp_path), None)), CAPTIONS)

    def test_an_index_of_the_pool_leads_back_to_the_caption(self, tmp_path: Path, monkeypatch: Any) -> None:
        model, asked = roclip(tmp_path, text_gradient='matched'), []
        monkeypatch.setattr(model, 'encode_text', lambda tokens: asked.append(tokens.tolist()) or CAPTIONS[0])
        pairs_in_step(in_matching_epoch(model, None))
        pairs_in_step(in_matching_epoch(model, POOL))
        assert asked == [TOKENS[0].tolist(), [[0, 1, 2], [3, 4, 5]]]

    def test_a_run_follows_the_formula(self, tmp_path: Path) -> None:
        """With a pool of one batch, the captions are those of the batch before."""
        watch = Watch()
        fit(roclip(tmp_path, pool_size=BATCH, lr=1e-2), tmp_path, watch, max_epochs=1)
        assert len(watch.losses) == STEPS
        for step in range(1, STEPS):
            (image, _), (_, pool) = watch.embedded[step], watch.embedded[step - 1]
            assert watch.losses[step] == pytest.approx(formula(image, pool, watch.scales[step]), abs=1e-5)


def formula(image: Tensor, pool: Tensor, scale: float) -> float:
    """CLIP's loss of images with their nearest captions, written out."""
    nearest = pool[(image @ pool.T).argmax(1)]
    similarity = (scale * image @ nearest.T).exp()
    to_text, to_image = (similarity.diag() / similarity.sum(side) for side in (1, 0))
    return float(-(to_text.log().mean() + to_image.log().mean()) / 2)


class TestTextTower:
    def run(self, folder: Path, text_gradient: Any) -> Watch:
        """An epoch of CLIP and one that matches."""
        watch = Watch()
        fit(roclip(folder, match_every=2, text_gradient=text_gradient, lr=1e-2), folder, watch)
        return watch

    def test_is_frozen_in_matching_epochs(self, tmp_path: Path) -> None:
        watch = self.run(tmp_path, 'frozen')
        assert all(torch.equal(before, after) for before, after in zip(*watch.text, strict=True))

    def test_moves_without_gradient_as_in_the_released_code(self, tmp_path: Path) -> None:
        watch = self.run(tmp_path, 'zero')
        assert not any(gradient.any() for step in watch.gradients[STEPS:] for gradient in step)
        assert not any(torch.equal(before, after) for before, after in zip(*watch.text, strict=True))

    def test_learns_from_the_captions_that_were_matched(self, tmp_path: Path) -> None:
        watch = self.run(tmp_path, 'matched')
        assert all(any(gradient.any() for gradient in step) for step in watch.gradients[STEPS:])

    def test_a_gradient_of_zero_moves_a_weight_and_none_does_not(self) -> None:
        """Why a frozen tower gets none."""
        weight = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        optimizer = torch.optim.AdamW([weight], lr=5e-5, weight_decay=0.1)
        for gradient, value in ((1.0, 0.999945), (0.0, 0.9999064974), (None, 0.9999064974)):
            weight.grad = None if gradient is None else torch.tensor(gradient, dtype=torch.float64)
            optimizer.step()
            assert weight.item() == pytest.approx(value, abs=1e-10)


class TestPool:
    @pytest.mark.parametrize(('fill_pool', 'filled'), [('each_epoch', [32, 40]), ('matching_epochs', [0, 32])])
    def test_is_filled_in_the_epochs_that_the_setting_names(
        self, tmp_path: Path, fill_pool: Any, filled: list[int]
    ) -> None:
        watch = Watch()
        fit(roclip(tmp_path, match_every=2, pool_size=40, fill_pool=fill_pool), tmp_path, watch)
        assert watch.filled == filled

    def test_holds_each_caption_beside_its_embedding(self, tmp_path: Path) -> None:
        model = roclip(tmp_path, pool_size=20, lr=0.0)
        fit(model, tmp_path, max_epochs=1)
        text, tokens = (model.pools[name].rows for name in ('text', 'tokens'))
        assert torch.allclose(model.encode_text(tokens.long()), text, atol=1e-5)
        assert model.pools['text'].position == model.pools['tokens'].position == 32 % 20


def train_or_die(folder: Path, place: Place | None = None, resume: Path | None = None) -> dict[str, Any]:
    """Trains four epochs, unless it dies before, and returns what the last checkpoint holds."""
    model = roclip(folder.parent, match_every=2, text_gradient='matched', pool_size=2 * BATCH, lr=1e-2)
    save = ModelCheckpoint(folder / 'checkpoints', save_on_train_epoch_end=True, save_last=True)
    killer = Killer(place or Place('training', -1, 0), raise_died)
    fit(model, folder.parent, killer, save, max_epochs=4, enable_checkpointing=True, resume=resume)
    return load_outcome(folder)


@pytest.mark.filterwarnings('ignore:The dirpath has changed')  # a resumed run has its own folder
def test_resumes_as_if_it_had_not_died(tmp_path: Path) -> None:
    with pytest.raises(Died):
        train_or_die(tmp_path / 'died', Place('training', 3, 2))
    resumed = train_or_die(tmp_path / 'resumed', resume=last(tmp_path / 'died'))
    assert resumed['state_dict']['pools.tokens.rows'].any()
    assert find_differences(train_or_die(tmp_path / 'whole'), resumed) == []


class TestRefusals:
    @pytest.mark.parametrize(
        ('setting', 'message'),
        [
            ({'match_every': 0}, r'model\.match_every must be at least 1, got 0'),
            ({'pool_size': 0}, r'model\.pool_size must be at least 1, got 0'),
        ],
    )
    def test_numbers_out_of_range(self, setting: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            RoCLIP(**setting)

    def test_a_pool_smaller_than_a_batch(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r'model\.pool_size=7 is smaller than a batch of 8.*or auto'):
            fit(roclip(tmp_path, pool_size=7), tmp_path)

    def test_a_checkpoint_with_a_pool_of_another_size(self, tmp_path: Path) -> None:
        file = tmp_path / 'model.ckpt'
        fit(roclip(tmp_path, pool_size=8), tmp_path, max_epochs=1).save_checkpoint(file)
        with pytest.raises(UsageError, match=r'pools of 8 embeddings and this run makes them 32: .* model\.pool_size'):
            fit(roclip(tmp_path), tmp_path, resume=file)
