from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from callbacks import figures
from callbacks.attack_success import AttackSuccessRate
from callbacks.figures import Figures, poisoned_pairs
from callbacks.zero_shot import ZeroShot
from datamodules.evaluation.sets import EvaluationSet
from tests.callbacks.observed import POISONS, QUIET, ROWS, WARM_UP, Answers, Data, MakeSplits, evaluation_set, trainer

pytestmark = QUIET

SCORE = torch.linspace(0.6, -0.2, ROWS)
CURVES = {'success.png', 'mean_similarity.png', 'split.png'}


def sets() -> list[EvaluationSet]:
    return [evaluation_set('heldout', [0, 1, 2], None), evaluation_set('badnet', [0, 1], [2, 2])]


def logits() -> list[Tensor]:
    return [torch.eye(3)[[0, 1, 0]], torch.eye(3)[[2, 0]]]


class SaveAtEpochEnd(Callback):
    """Saves a checkpoint after each epoch at a given path; Lightning's own callback would choose the path itself."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.save_checkpoint(self.path)


@pytest.fixture
def without_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('callbacks.figures._folder', lambda trainer: None)


@pytest.fixture
def blank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes empty files, for tests in which only the file names matter: drawing takes seconds."""
    monkeypatch.setattr(Figure, 'savefig', lambda self, path, **kwargs: Path(path).touch())


def fit(
    folder: Path,
    epochs: int,
    drawer: Figures | None = None,
    more: Sequence[Callback] = (),
    ckpt_path: str | None = None,
    **kwargs: Any,
) -> tuple[Figures, Data]:
    drawer, data = drawer or Figures(), Data(sets())
    run = trainer(folder, [AttackSuccessRate(), ZeroShot(), MakeSplits(SCORE, 30), drawer, *more], epochs, **kwargs)
    run.fit(Answers(logits()), datamodule=data, ckpt_path=ckpt_path)
    return drawer, data


def drawn(folder: Path) -> set[str]:
    return {path.name for path in (folder / 'figures').glob('*')}


def test_draws_retrieval_beside_chance_once_it_was_measured() -> None:
    drawer, data = Figures(), Data(sets())
    assert 'retrieval' not in drawer._curves(data, [''])
    names = [f'retrieval/val/{way}_medr{end}' for way in ('i2t', 't2i') for end in ('', '_chance_low', '_chance_high')]
    drawer.history = {'loss': [[1.0, 4.0]], **{name: [[1.0, 50.0]] for name in names}}
    loss, ranks = drawer._curves(data, [''])['retrieval'].axes
    assert loss.lines[0].get_xydata().tolist() == [[1, 4]]
    assert [line.get_label() for line in ranks.lines] == ['val, picture to text', 'val, text to picture']


@pytest.mark.usefixtures('without_drawing')
class TestHistory:
    def test_holds_the_metrics_of_each_epoch(self, tmp_path: Path) -> None:
        history = fit(tmp_path, 3)[0].history
        assert [epoch for epoch, _ in history['loss']] == [1, 2, 3]
        assert history['zero_shot/heldout'] == [[epoch, pytest.approx(2 / 3)] for epoch in (1, 2, 3)]
        assert history['asr/badnet/rate'] == [[epoch, 0.5] for epoch in (1, 2, 3)]
        assert history['split/share'] == [[epoch, 0.5] for epoch in (2, 3)]
        assert history['split/leak/badnet'] == [[epoch, 1.0] for epoch in (2, 3)]

    def test_similarities_are_means_over_clean_and_poisoned_rows(self, tmp_path: Path) -> None:
        drawer, data = fit(tmp_path, 2)
        is_clean = np.ones(ROWS, bool)
        is_clean[data.manifest.rows()] = False
        rows = {'clean': is_clean, **{attack: np.array(rows) for attack, rows in POISONS.items()}}
        for name, of_group in rows.items():
            trained = data.similarity.numpy()[of_group].mean()
            expected = [[1, pytest.approx(trained, abs=1e-6)], [2, pytest.approx(trained + 0.1, abs=1e-6)]]
            assert drawer.history[f'similarity/training/{name}'] == expected
            swept = SCORE.numpy()[of_group].mean()
            assert drawer.history[f'similarity/sweep/{name}'] == [[2, pytest.approx(swept, abs=1e-6)]]

    def test_is_complete_after_a_resume(self, tmp_path: Path) -> None:
        whole = fit(tmp_path / 'whole', 4)[0].history
        fit(tmp_path / 'first', 2, more=[SaveAtEpochEnd(tmp_path / 'last.ckpt')])
        resumed = fit(tmp_path / 'second', 4, ckpt_path=str(tmp_path / 'last.ckpt'))[0].history
        assert resumed == whole

    def test_loads_with_weights_only(self, tmp_path: Path) -> None:
        drawer = fit(tmp_path, 2)[0]
        torch.save(drawer.state_dict(), tmp_path / 'state.pt')
        other = Figures()
        other.load_state_dict(torch.load(tmp_path / 'state.pt', weights_only=True))
        assert other.history == drawer.history

    def test_the_state_is_a_copy(self) -> None:
        drawer = Figures()
        drawer.history = {'a': [[1.0, 2.0]]}
        state = drawer.state_dict()
        drawer.history['a'][0][1] = 3.0
        assert state['history'] == {'a': [[1.0, 2.0]]}

    def test_a_state_without_version_gets_current_names(self) -> None:
        old_names = ('asr/badnet', 'asr/badnet_clean', 'asr/badnet_hits', 'asr/badnet_n', 'split/share')
        drawer = Figures()
        drawer.load_state_dict({'history': {name: [[1.0, 2.0]] for name in old_names}})
        assert {*drawer.history} == {*(f'asr/badnet/{what}' for what in ('rate', 'clean', 'hits', 'n')), 'split/share'}

    def test_refuses_the_state_of_a_later_release(self) -> None:
        with pytest.raises(
            ValueError, match=r'version 3 of the state of callbacks\.figures, but this release reads up to 2'
        ):
            Figures().load_state_dict({'version': 3, 'history': {}})

    def test_epochs_between_sweeps_have_no_point(self, tmp_path: Path) -> None:
        drawer, data = Figures(), Data(sets())
        partition = data.partition
        splits = MakeSplits(SCORE, 30)

        class SweepsOnce(Callback):
            """Makes one split after the warm-up and keeps it for later epochs without a new sweep."""

            def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
                if partition.scored_after is None:
                    splits.on_train_epoch_end(trainer, pl_module)
                elif trainer.current_epoch + 1 > WARM_UP:
                    partition.epoch = trainer.current_epoch + 1

        run = trainer(tmp_path, [SweepsOnce(), drawer], 4)
        run.fit(Answers(logits()), datamodule=data)
        assert partition.epoch == 4
        assert [epoch for epoch, _ in drawer.history['split/share']] == [WARM_UP]
        assert [epoch for epoch, _ in drawer.history['similarity/sweep/badnet']] == [WARM_UP]

    def test_epochs_without_an_evaluation_have_no_point(self, tmp_path: Path) -> None:
        history = fit(tmp_path, 4, check_val_every_n_epoch=2)[0].history
        assert [epoch for epoch, _ in history['asr/badnet/rate']] == [2, 4]

    def test_the_sanity_check_is_not_recorded(self, tmp_path: Path) -> None:
        assert [e for e, _ in fit(tmp_path, 1, num_sanity_val_steps=2)[0].history['asr/badnet/rate']] == [1]

    def test_a_second_evaluation_in_an_epoch_replaces_the_first(self, tmp_path: Path) -> None:
        history = fit(tmp_path, 2, val_check_interval=0.5)[0].history
        assert [epoch for epoch, _ in history['asr/badnet/rate']] == [1, 2]


class TestDrawing:
    @pytest.mark.usefixtures('blank')
    def test_draws_after_the_first_split_every_n_epochs_and_at_the_end(self, tmp_path: Path) -> None:
        fit(tmp_path, 5, Figures(every_n_epochs=4))
        histograms = {f'similarity_00{epoch}.png' for epoch in (WARM_UP, 4, 5)}
        assert drawn(tmp_path) == {'poisons.png', *CURVES, *histograms}

    def test_a_resumed_run_removes_those_of_epochs_that_it_trains_again(self, tmp_path: Path) -> None:
        (tmp_path / 'figures').mkdir()
        for epoch in (3, 4):
            (tmp_path / f'figures/similarity_00{epoch}.png').touch()
        run: Any = SimpleNamespace(log_dir=str(tmp_path), is_global_zero=True, current_epoch=3)
        Figures().on_train_start(run, LightningModule())
        assert drawn(tmp_path) == {'similarity_003.png'}

    def test_figures_are_images_of_visible_size(self, tmp_path: Path) -> None:
        fit(tmp_path, WARM_UP)
        for name in drawn(tmp_path):
            with Image.open(tmp_path / 'figures' / name) as image:
                assert min(image.size) > 100

    def test_draws_only_similarities_without_attacks_evaluation_or_split(self, tmp_path: Path) -> None:
        trainer(tmp_path, [Figures()], epochs=1).fit(Answers(), datamodule=Data(is_poisoned=False))
        assert drawn(tmp_path) == {'mean_similarity.png'}

    def test_draws_captions_in_a_script_that_the_font_lacks(self, tmp_path: Path) -> None:
        data = Data()
        captions = [line | {'caption': '一艘船 🚢'} for line in data.manifest.table.to_pylist()]
        data.manifest.table = type(data.manifest.table).from_pylist(captions, data.manifest.table.schema)
        trainer(tmp_path, [Figures()], epochs=1).fit(Answers(), datamodule=data)
        assert 'poisons.png' in drawn(tmp_path)

    def test_sends_figures_to_wandb(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        sent: list[tuple[Any, ...]] = []
        monkeypatch.setattr(WandbLogger, '__init__', lambda self: None)
        monkeypatch.setattr(WandbLogger, 'log_image', lambda self, key, images, step: sent.append((key, images, step)))
        run = SimpleNamespace(loggers=[CSVLogger(tmp_path), WandbLogger()], global_step=7)
        figures._save(run, tmp_path, 'similarity_006', Figure((1, 1)), key='similarity')
        assert sent == [('figures/similarity', [str(tmp_path / 'similarity_006.png')], 7)]
        figures._save(run, tmp_path, 'poisons', Figure((1, 1)), shows_pairs=True)
        run.loggers[1].log_data = False  # pairs stay on this machine
        figures._save(run, tmp_path, 'protected', Figure((1, 1)), shows_pairs=True)
        assert [key for key, *_ in sent] == ['figures/similarity', 'figures/poisons']

    @pytest.mark.parametrize('name', ['every_n_epochs', 'examples'])
    def test_refuses_counts_below_1(self, name: str) -> None:
        with pytest.raises(ValueError, match=f'{name} must be at least 1, got 0'):
            Figures(**{name: 0})


class TestPoisonedPairs:
    def test_are_spread_over_the_attack_and_shown_as_stored(self) -> None:
        data = Data()
        pairs = poisoned_pairs(data, 'badnet', 3)
        assert [pair.caption for pair in pairs] == ['poison 40', 'poison 44', 'poison 47']
        assert all(pair.target == 'boat' for pair in pairs)
        assert np.array_equal(pairs[0].image, data.images(np.array([40]))[0])

    def test_are_all_of_a_smaller_attack(self) -> None:
        assert len(poisoned_pairs(Data(), 'targeted', 9)) == 4
