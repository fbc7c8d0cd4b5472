from __future__ import annotations

import csv
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from datamodules.rows.filters import Filter
from datamodules.rows.table import PairTable
from datamodules.text.allowed_tokens import allowed_tokens, words_of
from datamodules.usage_error import UsageError
from lightning_modules.caption_triggers import insert_trigger
from lightning_modules.clip import CLIP
from lightning_modules.noise_steps import add_noise
from lightning_modules.unlearnable import EM, MEM, UAP, Batch, Captions
from tests.helpers.tiny import TinyPairs, tiny_architecture, trainer
from tests.lightning_modules.unlearnable_runs import (
    EPS,
    ROWS,
    Died,
    DiesIn,
    TwoCaptions,
    build,
    content,
    fit,
    pairs,
    pictures_of,
    store_of,
)

pytestmark = pytest.mark.filterwarnings('ignore:Checkpoint directory')  # a run is repeated in it
ALL = np.arange(ROWS)
BATCHES = 4  # of a sweep


class BlackAndWhite(TinyPairs):
    """Pairs of which every class has black pictures and white ones."""

    def load_table(self) -> PairTable:
        table = super().load_table()
        opener: Any = table.opener
        opener.pictures = [picture * 0 + 255 * (row // 4 % 2) for row, picture in enumerate(opener.pictures)]
        return table


class First(Filter):
    """Drops the first rows."""

    def drop(self, table: PairTable) -> np.ndarray:
        return np.arange(len(table)) < 3


class Watched(MEM):
    """Records the loss of each batch before and after its words, and then its noise, are searched."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.words: list[tuple[float, float]] = []
        self.noises: list[tuple[float, float]] = []

    def loss_with(self, batch: Batch, noise: Tensor, trigger: Tensor) -> float:
        pixels = add_noise(batch.pictures, noise).float() / 255
        with torch.no_grad():
            return float(self._noise_loss(batch, pixels, self._embed_shuffled(batch, trigger, None)))

    def _stored(self, batch: Batch) -> Tensor:
        return self._stored_noise(self.protection.unit[batch.rows])

    def _search_triggers(self, batch: Batch, trigger: Tensor) -> Tensor:
        found = super()._search_triggers(batch, trigger)
        noise = self._stored(batch)
        self.words.append((self.loss_with(batch, noise, trigger), self.loss_with(batch, noise, found)))
        return found

    def _search_noise(self, batch: Batch, trigger: Tensor) -> Tensor:
        found = super()._search_noise(batch, trigger)
        losses = self.loss_with(batch, self._stored(batch), trigger), self.loss_with(batch, found, trigger)
        self.noises.append(losses)
        return found


class WatchedUAP(UAP, Watched):
    pass


class Losses(Callback):
    """Records the loss of each step of the surrogate, by the number of its batch in the run."""

    def __init__(self) -> None:
        self.batches, self.of_step = 0, dict[int, float]()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if outputs:
            self.of_step[self.batches] = float(outputs['loss'])
        self.batches += 1


class Gradients(Callback):
    """Records the length of the gradient of each step of the surrogate."""

    def __init__(self) -> None:
        self.lengths: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        grads = [p.grad.norm() for p in pl_module.parameters() if p.grad is not None]
        self.lengths.append(float(torch.stack(grads).norm()))


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('mem')


@pytest.fixture(scope='module')
def finished(folder: Path) -> MEM:
    """MEM after two rounds on pairs of which a filter drops three."""
    module = build(folder, MEM)
    fit(folder, module, pairs(folder, filters={'first': First()}))
    return module


class TestWhatItMakes:
    def test_noise_is_in_whole_levels_within_eps_and_no_picture_leaves_its_range(
        self, folder: Path, finished: MEM
    ) -> None:
        store = store_of(folder)
        rows = np.flatnonzero(store.unit >= 0)
        noise = torch.from_numpy(store.noise(store.unit[rows]))
        clean = pictures_of(finished)[rows]
        assert rows.tolist() == list(range(3, ROWS)) and store.rounds == 2
        assert noise.abs().max() == EPS and noise.flatten(1).any(1).all()
        assert torch.equal(add_noise(clean, noise).short(), clean.short() + noise)

    def test_triggers_are_read_back_from_the_text(self, folder: Path, finished: MEM) -> None:
        store, data = store_of(folder), finished.protection.data
        trigger, tokens = store.trigger(ALL)[3:], data.tokens[3:].astype(np.int64)
        assert np.isin(trigger, allowed_tokens()).all() and (trigger != 518).any(1).all()
        inserted = insert_trigger(*map(torch.from_numpy, (tokens, store.place[3:].astype(np.int64), trigger)))
        for words, caption, expected in zip(trigger, data.table.captions(ALL[3:]), inserted, strict=True):
            assert data.tokenizer(f'{" ".join(words_of(words))} {caption}').tolist() == expected.tolist()

    def test_rows_that_are_left_out_stay_clean(self, folder: Path, finished: MEM) -> None:
        store = store_of(folder)
        assert store.unit[:3].tolist() == [-1] * 3 and store.unit[3:].tolist() == list(range(ROWS - 3))

    @pytest.mark.parametrize('selection', ['batch', 'row'])
    @pytest.mark.parametrize(('granularity', 'units'), [('image', ROWS // 2), ('row', ROWS), ('class', 4)])
    def test_a_unit_shares_noise_and_trigger(
        self, granularity: str, units: int, selection: str, tmp_path: Path
    ) -> None:
        module = build(tmp_path, Watched, granularity=granularity, selection=selection)
        fit(tmp_path, module, pairs(tmp_path, TwoCaptions), epochs=1)
        store = store_of(tmp_path)
        noise, trigger = store.noise(np.arange(units)), store.trigger(ALL)
        assert len(set(store.unit)) == units
        assert noise.any((1, 2, 3)).all() and abs(noise).max() <= EPS
        assert len(np.unique(np.c_[store.unit, trigger], axis=0)) == units
        assert len(np.unique(trigger, axis=0)) > min(units, 10) // 2
        assert all(after <= before + 1e-6 for before, after in module.words)

    def test_noise_of_a_class_does_not_take_the_range_of_one_of_its_pictures(self, tmp_path: Path) -> None:
        """Also where every pair of a batch is of another class."""
        for batch in (2, ROWS):
            kwargs = {'noise_start': 'random', 'noise_steps': 0, 'store': str(tmp_path / f'{batch}' / 'noise')}
            data = pairs(tmp_path, BlackAndWhite)
            data.batch_size = batch
            fit(tmp_path, build(tmp_path, EM, granularity='class', **kwargs), data, epochs=1)
        few, many = (store_of(tmp_path / f'{batch}').noise(np.arange(4)) for batch in (2, ROWS))
        assert np.array_equal(few, many) and abs(few.astype(int)).mean() > EPS / 3

    def test_noise_that_captions_share_is_within_range_at_each_step(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Down, then up: on a black pixel the first step leads nowhere."""
        monkeypatch.setattr(MEM, '_gradient', lambda *_: lambda noise, number: noise.float() * 0 + (1, -1)[number])
        data = pairs(tmp_path, TwoCaptions)
        data.batch_size = ROWS  # with both captions of a picture in a batch
        module = build(tmp_path, EM, noise_steps=2, step=EPS)
        fit(tmp_path, module, data, epochs=1)
        store, clean = store_of(tmp_path), pictures_of(module).int()
        expected = torch.minimum(EPS - clean.clamp(max=EPS), 255 - clean)
        assert torch.equal(torch.from_numpy(store.noise(store.unit)).int(), expected) and expected.any()

    def test_averages_over_random_views(self, tmp_path: Path) -> None:
        for views in (0, 2):
            fit(
                tmp_path,
                build(tmp_path, EM, averaged_views=views, store=str(tmp_path / f'{views}' / 'noise')),
                epochs=1,
            )
        plain, averaged = (store_of(tmp_path / f'{views}').noise(ALL) for views in (0, 2))
        assert averaged.any((1, 2, 3)).all() and (plain != averaged).mean() > 0.05

    def test_controls(self, tmp_path: Path) -> None:
        """Random noise and random words, of the same class: nothing is trained."""
        kwargs = {'surrogate_steps': 0, 'noise_steps': 0, 'text_rounds': 0, 'trigger_start': 'random'}
        module = build(tmp_path, MEM, noise_start='random', **kwargs)
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        fit(tmp_path, module, epochs=1)
        store = store_of(tmp_path)
        noise, clean = torch.from_numpy(store.noise(ALL)), pictures_of(module)
        assert torch.equal(add_noise(clean, noise).short(), clean.short() + noise)
        assert noise.float().abs().mean() > 3
        assert len(set(store.trigger(ALL)[:, 0].tolist())) > ROWS // 2
        assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


class TestSteps:
    @pytest.mark.parametrize(('selection', 'beam'), [('batch', 1), ('batch', 3), ('row', 1), ('row', 2)])
    def test_words_never_raise_the_loss_of_their_batch(self, tmp_path: Path, selection: str, beam: int) -> None:
        module = build(tmp_path, Watched, selection=selection, beam=beam)
        fit(tmp_path, module)
        assert len(module.words) == 2 * BATCHES
        assert all(after <= before + 1e-6 for before, after in module.words)
        assert any(after < before - 1e-3 for before, after in module.words)

    def test_noise_lowers_the_loss_of_its_batch_and_uap_raises_it(self, tmp_path: Path) -> None:
        kwargs: dict[str, Any] = {'shuffle_captions': False, 'noise_steps': 4, 'step': 2}
        down = build(tmp_path, Watched, **kwargs)
        fit(tmp_path, down, epochs=1)
        assert len(down.noises) == BATCHES and all(after < before for before, after in down.noises)
        kwargs |= {'surrogate_steps': 0, 'init_from': str(tmp_path / 'last.ckpt'), 'store': str(tmp_path / 'up')}
        up = build(tmp_path, WatchedUAP, **kwargs)
        fit(tmp_path, up, epochs=1)
        assert len(up.noises) == BATCHES and all(after > before for before, after in up.noises)

    def test_sweeps_leave_the_model_as_it_is(self, tmp_path: Path) -> None:
        module = build(tmp_path, Watched, surrogate_steps=0)
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        fit(tmp_path, module, epochs=1)
        assert module.words and all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
        assert all(parameter.grad is None for parameter in module.parameters())

    def test_every_step_of_the_surrogate_has_the_gradient_of_its_batch_alone(self, tmp_path: Path) -> None:
        """The batch holds all pairs, so each step has the same gradient, and not twice and three times as much."""
        watch = Gradients()
        module = build(tmp_path, EM, lr=0.0, noise_steps=0)
        fit(tmp_path, module, TinyPairs(rows=8, cache_dir=str(tmp_path / 'c')), epochs=1, callbacks=(watch,))
        assert watch.lengths == pytest.approx([watch.lengths[0]] * 3, rel=1e-4)

    def test_shuffles_captions_anew_in_each_step(self, finished: MEM) -> None:
        orders = [finished.protection.shuffle(50, 0, 3, step).tolist() for step in (0, 1, 0)]
        assert orders[0] == orders[2] != orders[1] and sorted(orders[0]) == [*range(50)]

    def test_noise_is_searched_with_the_pairs_own_words_in_captions_of_others(self, finished: MEM) -> None:
        rows = np.arange(8)
        tokens = torch.from_numpy(finished.protection.tokens[rows].astype(np.int64))
        place = torch.from_numpy(finished.protection.place[rows].astype(np.int64))
        batch = Batch(3, rows, slice(0, 8), pictures_of(finished)[:8], Captions(tokens, place))
        trigger = torch.arange(1000, 1024).view(8, 3)
        embedded: list[Tensor] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(finished, 'encode_text', lambda captions: embedded.append(captions) or torch.eye(8))
            patch.setattr(finished, '_noise_loss', lambda batch, pixels, text: pixels.sum())
            finished._gradient(batch, trigger)(torch.zeros(8, 3, 8, 8, dtype=torch.int16), 0)
        order = finished.protection.shuffle(8, finished.current_epoch, 3, 0)
        expected = insert_trigger(tokens[order], place[order], trigger)
        assert torch.equal(embedded[0], expected) and not torch.equal(order, torch.arange(8))

    def test_the_loss_that_is_written_is_that_of_its_step(self, tmp_path: Path) -> None:
        losses = Losses()
        module, logger = build(tmp_path, EM, surrogate_steps=5), CSVLogger(tmp_path)
        fit(tmp_path, module, callbacks=(losses,), logger=logger, log_every_n_steps=3)
        with Path(logger.log_dir, 'metrics.csv').open() as file:
            written = {int(row['step']): float(row['train/loss']) for row in csv.DictReader(file) if row['train/loss']}
        assert [written[step] for step in (2, 11)] == pytest.approx([losses.of_step[step] for step in (2, 11)])

    def test_signs_of_a_surrogate_in_bfloat16_are_those_in_float32(self, tmp_path: Path) -> None:
        """The model computes in bfloat16, gradients of pixels are float32: one step of noise from the same weights."""
        noises = []
        for precision in ('32-true', 'bf16-mixed'):
            module = build(tmp_path, EM, surrogate_steps=0, noise_steps=1, store=str(tmp_path / precision / 'noise'))
            fit(tmp_path, module, epochs=1, precision=precision)
            noises.append(store_of(tmp_path / precision).noise(ALL))
        assert (noises[0] == noises[1]).mean() > 0.95


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], dict[str, Tensor]]:
    """Store and weights of a run of three rounds."""
    folder = tmp_path_factory.mktemp('whole')
    module = build(folder, MEM, text_rounds=2)
    fit(folder, module, pairs(folder, TwoCaptions), epochs=3)
    return content(folder), module.state_dict()


class TestResume:
    @pytest.mark.parametrize('batch', [0, 1, 5], ids=['between rounds', 'while training', 'in mid-sweep'])
    def test_a_killed_run_ends_with_the_same_bytes(
        self, tmp_path: Path, whole: tuple[dict[str, bytes], dict[str, Tensor]], batch: int
    ) -> None:
        data = pairs(tmp_path, TwoCaptions)
        with pytest.raises(Died):
            fit(tmp_path, build(tmp_path, MEM, text_rounds=2), data, epochs=3, callbacks=(DiesIn(1, batch),))
        assert content(tmp_path) != whole[0]
        module = build(tmp_path, MEM, text_rounds=2)
        fit(tmp_path, module, pairs(tmp_path, TwoCaptions), epochs=3, resume=tmp_path / 'last.ckpt')
        assert content(tmp_path) == whole[0]
        assert all(torch.equal(tensor, whole[1][name]) for name, tensor in module.state_dict().items())

    def test_refuses_to_go_on_without_its_store(self, tmp_path: Path) -> None:
        fit(tmp_path, build(tmp_path, EM), epochs=1)
        (tmp_path / 'noise').rename(tmp_path / 'moved')
        with pytest.raises(UsageError, match='holds no noise'):
            fit(tmp_path, build(tmp_path, EM), resume=tmp_path / 'last.ckpt')
        fit(tmp_path, build(tmp_path, EM, store=str(tmp_path / 'moved')), resume=tmp_path / 'last.ckpt')

    def test_refuses_to_go_on_with_other_pictures_of_the_same_names(self, tmp_path: Path) -> None:
        fit(tmp_path, build(tmp_path, EM), epochs=1)

        class Edited(TinyPairs):
            def load_table(self) -> PairTable:
                table = super().load_table()
                opener: Any = table.opener
                opener.pictures[3] = 255 - opener.pictures[3]
                return table

        with pytest.raises(UsageError, match='holds noise of other pictures, or some have been changed'):
            fit(tmp_path, build(tmp_path, EM), pairs(tmp_path, Edited), resume=tmp_path / 'last.ckpt')

    def test_refuses_a_store_made_with_other_settings(self, tmp_path: Path) -> None:
        fit(tmp_path, build(tmp_path, EM), epochs=1)
        with pytest.raises(UsageError, match='holds noise of eps=8, not 4'):
            fit(tmp_path, build(tmp_path, EM, eps=4), resume=tmp_path / 'last.ckpt')

    def test_refuses_to_overwrite_a_store(self, tmp_path: Path) -> None:
        fit(tmp_path, build(tmp_path, EM), epochs=1)
        before = content(tmp_path)
        with pytest.raises(UsageError, match='exists'):
            fit(tmp_path, build(tmp_path, EM), epochs=1)
        assert content(tmp_path) == before

    def test_refuses_a_checkpoint_that_made_no_noise(self, tmp_path: Path) -> None:
        plain = CLIP(tiny_architecture(tmp_path, 'unlearnable'))
        run = trainer(max_epochs=1)
        run.fit(plain, pairs(tmp_path))
        run.save_checkpoint(tmp_path / 'plain.ckpt')
        with pytest.raises(UsageError, match='made no noise'):
            fit(tmp_path, build(tmp_path, EM), resume=tmp_path / 'plain.ckpt')


class TestBadInput:
    @pytest.mark.parametrize(
        ('kwargs', 'message'),
        [
            ({'eps': 256}, r'model.eps must lie in \[0, 127\]'),
            ({'eps': 8 / 255}, 'model.eps counts levels of 255 and must be a whole number, such as 8 for 8/255'),
            ({'step': 0.5}, 'model.step counts levels'),
            ({'step': 0}, 'model.step must lie in'),
            ({'trigger_length': -1}, 'model.trigger_length'),
            ({'beam': 0}, 'model.beam'),
            ({'views': 2}, 'leave model.views at 1'),
            ({'chunk_size': 4}, 'model.chunk_size null'),
            ({'trigger_length': 0}, 'set model.shuffle_captions=false, or use EM'),
        ],
    )
    def test_refuses_arguments(self, tmp_path: Path, kwargs: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            build(tmp_path, MEM, **kwargs)

    @pytest.mark.parametrize(
        ('kwargs', 'message'),
        [
            ({'trigger_length': 6}, 'trigger_length=6 leaves no room for a caption'),
            ({'trigger_place': 'end', 'trigger_length': 4}, 'leave no room for 4 words behind them'),
        ],
    )
    def test_refuses_triggers_that_do_not_fit(self, tmp_path: Path, kwargs: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            fit(tmp_path, build(tmp_path, MEM, **kwargs))
        assert not (tmp_path / 'noise').exists()

    def test_captions_that_are_left_out_need_not_leave_room(self, tmp_path: Path) -> None:
        """As the message about the others advises."""

        class Short(Filter):
            def drop(self, table: PairTable) -> np.ndarray:
                return np.array([len(caption.split()) > 2 for caption in table.captions(np.arange(len(table)))])

        kwargs: dict[str, Any] = {'trigger_place': 'end', 'trigger_length': 3, 'text_rounds': 0, 'surrogate_steps': 0}
        for filters in ({'short': Short()}, {}):
            with nullcontext() if filters else pytest.raises(UsageError, match=r'leave no room .* with data\.filters'):
                fit(tmp_path, build(tmp_path, MEM, **kwargs), pairs(tmp_path, filters=filters), epochs=1)

    def test_says_how_many_captions_are_cut(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        fit(tmp_path, build(tmp_path, MEM, trigger_length=5), epochs=1)
        assert 'captions lose their last words to the trigger' in caplog.text

    def test_refuses_pictures_of_another_size(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r'data.cache_size=16 is not the 8 pixels'):
            fit(tmp_path, build(tmp_path, EM), pairs(tmp_path, cache_size=16))

    def test_refuses_pictures_that_are_not_stored(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r'^data\.cache=none does not tell .* set data\.cache=memmap\.$'):
            fit(tmp_path, build(tmp_path, EM), pairs(tmp_path, cache='none'))

    def test_refuses_settings_of_the_trainer_that_spoil_the_noise(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match='limit_train_batches'):
            fit(tmp_path, build(tmp_path, EM), limit_train_batches=3)
        with pytest.raises(UsageError, match=r'would end a round early: set trainer\.max_epochs'):
            fit(tmp_path, build(tmp_path, EM), max_steps=3)
        with pytest.raises(UsageError, match=r'set trainer\.reload_dataloaders_every_n_epochs=1'):
            fit(tmp_path, build(tmp_path, EM), reload_dataloaders_every_n_epochs=2)

    def test_says_that_the_surrogate_has_diverged_before_words_are_searched(self, tmp_path: Path) -> None:
        with pytest.raises(
            UsageError, match=r'has diverged: .*: lower model\.lr, or take another trainer\.precision\.'
        ):
            fit(tmp_path, build(tmp_path, MEM, lr=1e30), log_every_n_steps=50)

    def test_refuses_processes_on_several_machines(self, tmp_path: Path) -> None:
        model = build(tmp_path, EM)
        model.trainer = trainer(num_nodes=2)
        with pytest.raises(UsageError, match=r'^EM writes noise into one file, .* set trainer\.num_nodes=1\.$'):
            model.setup('fit')

    def test_uap_needs_a_trained_model_of_this_architecture(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r'name it with model.init_from'):
            fit(tmp_path, build(tmp_path, UAP))
        other = CLIP(tiny_architecture(tmp_path, 'other', width=12))
        torch.save({'state_dict': other.state_dict()}, tmp_path / 'other.ckpt')
        with pytest.raises(UsageError, match='weights of another architecture'):
            build(tmp_path, UAP, init_from=str(tmp_path / 'other.ckpt'))
