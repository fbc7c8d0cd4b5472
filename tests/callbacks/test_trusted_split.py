"""Splits that shuffled pairs and canaries say cannot be trusted."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from callbacks.mismatches import Mismatches
from callbacks.repartition import Past, SafeRiskyRepartition
from callbacks.scores import Running
from datamodules.rows.partition import RISKY, SAFE, Partition
from datamodules.usage_error import UsageError
from tests.callbacks.planted import POISONS, WARM_UP, Batch, PlantedData, PlantedModule, quiet_lightning, trainer

PAIRS = 64


class Embedding(PlantedModule):
    """Has embeddings with the planted similarities; the cosine of a mismatched pair is ``mismatched``.

    Its slow phase, the second epoch, can be extended.
    """

    def __init__(self, mismatched: float = 0.0, extra_slow_epochs: int = 0) -> None:
        super().__init__()
        self.mismatched, self.extra_slow_epochs, self.extended_by = mismatched, extra_slow_epochs, 0
        self.unimodal_from: int | None = None

    def extend_slow_phase(self) -> bool:
        self.extended_by += 1
        return self.extended_by <= self.extra_slow_epochs

    def sides(self, epoch: int) -> dict[str, int]:
        if self.unimodal_from is not None and epoch >= self.unimodal_from:
            return {'within_modal': 2}
        return {'cross_modal': 1} if WARM_UP <= epoch < WARM_UP + self.extended_by else super().sides(epoch)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        output = super().predict_step(batch, batch_idx)
        image, text = torch.zeros(2, len(batch.row), 2 * PAIRS + 1)
        common = math.sqrt(self.mismatched)
        image[:, 0] = text[:, 0] = common
        own = torch.arange(len(batch.row)), 1 + batch.row
        image[own] = math.sqrt(1 - self.mismatched)
        text[own] = (output['similarity'] - self.mismatched) / image[own]
        text[torch.arange(len(batch.row)), 1 + PAIRS + batch.row] = (1 - text.square().sum(1)).clamp(min=0).sqrt()
        return {**output, 'views': torch.stack([image, text])[:, None]}


def run(
    module: Embedding,
    epochs: int = WARM_UP + 3,
    callbacks: Any = (),
    resume: Path | None = None,
    on_distrust: Any = 'stop',
    **arguments: Any,
) -> tuple[PlantedData, SafeRiskyRepartition, Any]:
    torch.manual_seed(0)
    data, callback = PlantedData(), SafeRiskyRepartition(growth=0.05, on_distrust=on_distrust, **arguments)
    fitting = trainer(epochs, callback, *callbacks)
    fitting.fit(module, data, ckpt_path=resume)
    return data, callback, fitting


@quiet_lightning
@pytest.mark.filterwarnings('ignore:Checkpoint directory')
class TestTrust:
    def test_a_split_that_keeps_shuffled_pairs_out_is_trusted(self) -> None:
        data, callback, fitting = run(Embedding(mismatched=0.3), cap=0.75)
        assert fitting.current_epoch == WARM_UP + 3 and callback.distrust == ''
        metrics = fitting.callback_metrics
        assert metrics['partition/trusted'] == 1 and metrics['partition/null_leak'] == 0
        assert metrics['partition/null_auroc'] == pytest.approx(1 - POISONS / PAIRS)
        p = data.partition.p_value
        assert p is not None and p[:-POISONS].max() == 0 and p[-POISONS:].min() == 1
        resumed = Partition(PAIRS, data.partition.fingerprint)  # can still draw the shuffled pairs
        resumed.load_state_dict(data.partition.state_dict())
        assert resumed.null is not None and resumed.null['leak'] == 0 and sum(resumed.null['counts']) == 5 * PAIRS

    def test_a_split_that_lets_them_pass_ends_the_run(self, caplog: pytest.LogCaptureFixture) -> None:
        _, callback, fitting = run(Embedding(mismatched=0.6), min_fraction=1)
        assert '100.0% of shuffled pairs would count as safe (max_leak=0.05)' in caplog.text
        assert fitting.current_epoch == WARM_UP and fitting.callback_metrics['partition/trusted'] == 0
        assert callback.distrust.startswith(f'the split after epoch {WARM_UP} cannot be trusted: 100.0% of shuffled')

    def test_a_run_that_has_ended_is_not_resumed_unless_told(self, tmp_path: Path) -> None:
        def start(**arguments: Any) -> Any:
            checkpoint = ModelCheckpoint(tmp_path, save_last=True, save_on_train_epoch_end=True)
            return run(**{'module': Embedding(mismatched=0.6), **arguments}, callbacks=[checkpoint], min_fraction=1)

        start()
        ended = (tmp_path / 'last.ckpt').rename(tmp_path / 'ended.ckpt')
        _, callback, fitting = start(resume=ended)
        assert fitting.global_step == 16 and 'on_distrust=go_on' in callback.distrust  # no step more
        _, callback, fitting = start(resume=ended, on_distrust='go_on')
        assert fitting.current_epoch == WARM_UP + 3 and not callback.distrust
        start(resume=ended, on_distrust='unimodal', module=(module := Embedding(mismatched=0.6)))
        assert module.unimodal_from == WARM_UP

    def test_the_slow_phase_is_extended_first(self, caplog: pytest.LogCaptureFixture) -> None:
        module = Embedding(mismatched=0.6, extra_slow_epochs=2)
        with caplog.at_level('INFO'):
            data, _, fitting = run(module, epochs=9, min_fraction=1)
        assert fitting.current_epoch == WARM_UP + 2
        assert caplog.text.count('the slow phase is extended by an epoch') == 2
        assert data.partition.scored_after == WARM_UP + 2

    def test_a_split_that_is_put_off_does_not_speak_against_the_run(self) -> None:
        trusted = []

        class Watch(Callback):
            def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
                trusted.append('partition/trusted' in trainer.callback_metrics)

        module = Embedding(mismatched=0.6, extra_slow_epochs=9)
        _, callback, _ = run(module, epochs=WARM_UP + 1, min_fraction=1, callbacks=[Watch()])
        assert trusted == [False] * WARM_UP + [True]
        assert module.extended_by == 1 and callback.distrust  # after the last epoch there is nothing to extend

    @pytest.mark.parametrize('size', ['growth', 'calibrated'])
    def test_a_model_that_tells_no_captions_apart_is_not_trusted(
        self, size: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr('callbacks.shuffled_pairs.SAME_CAPTION', -1)
        _, callback, _ = run(Embedding(), size=size)
        assert 'no two captions look different to the model' in callback.distrust

    def test_refuses_an_answer_that_could_not_be_given(self) -> None:
        with pytest.raises(UsageError, match='could not end a run'):
            trainer(5, SafeRiskyRepartition(on_distrust='stop'), min_epochs=4).fit(Embedding(), PlantedData())
        with pytest.raises(UsageError, match='PlantedModule has no unimodal_from'):
            trainer(5, SafeRiskyRepartition(on_distrust='unimodal')).fit(PlantedModule(), PlantedData())

    def test_training_may_go_on_within_each_modality(self) -> None:
        module = Embedding(mismatched=0.6)
        _, _, fitting = run(module, min_fraction=1, on_distrust='unimodal')
        assert fitting.current_epoch == WARM_UP + 3 and module.unimodal_from == WARM_UP
        module = Embedding()
        module.unimodal_from = WARM_UP + 1  # as a checkpoint brings it
        with pytest.raises(UsageError, match='on_distrust=go_on comes too late'):
            run(module, on_distrust='go_on')

    def test_refuses_an_unknown_answer(self) -> None:
        with pytest.raises(UsageError, match='on_distrust must be one of stop, unimodal, go_on'):
            SafeRiskyRepartition(on_distrust='wait')  # type: ignore[arg-type]


class TestCalibratedSize:
    score = np.linspace(0, 1, 1000)
    known = Mismatches(np.linspace(-0.5, 0.9, 1400), {'patch': np.arange(500, 1000, 5)})

    def size(self, callback: SafeRiskyRepartition, past: Past | None = None, known: Mismatches | None = None) -> int:
        split = callback.decide(self.score, np.zeros(1000, np.int8), past, None, known or self.known)
        assert (split.side[self.score >= split.threshold] == SAFE).all()
        return int((split.side == SAFE).sum())

    def test_is_the_largest_whose_leak_is_within_the_bound(self) -> None:
        callback = SafeRiskyRepartition(size='calibrated', max_leak=0.1, min_fraction=0)
        nulls_only = Mismatches(self.known.null)
        safe = self.size(callback, known=nulls_only)
        assert (
            (nulls_only.null >= self.score[1000 - safe]).mean()
            <= 0.1
            < (nulls_only.null >= self.score[999 - safe]).mean()
        )
        assert 150 < self.size(callback) < 165  # 32 of 100 canaries are not evidently more than a fifth

    def test_has_a_bound_of_its_own_for_later_splits(self) -> None:
        callback = SafeRiskyRepartition(size='calibrated', max_leak=0, max_later_leak=0.2, growth=1)
        first = callback.decide(self.score, np.zeros(1000, np.int8), None, None, self.known)
        assert self.size(callback, first.past) > (first.side == SAFE).sum()

    def test_grows_by_no_more_than_allowed_and_may_shrink(self) -> None:
        callback = SafeRiskyRepartition(size='calibrated', max_later_leak=0.2, growth=0.01)
        assert self.size(callback, Past(Fraction(1, 10))) == 110
        assert 250 < self.size(callback, Past(Fraction(9, 10))) < 280

    def test_is_at_least_the_smallest_fraction(self) -> None:
        callback = SafeRiskyRepartition(size='calibrated', max_leak=0, min_fraction=0.3)
        assert self.size(callback) == 300

    def test_is_a_single_pair_that_is_not_trusted_where_the_bound_allows_none(self) -> None:
        callback, alike = SafeRiskyRepartition(size='calibrated', min_fraction=0), Mismatches(np.ones(9))
        split = callback.decide(self.score, np.zeros(1000, np.int8), None, None, alike)
        assert np.flatnonzero(split.side == SAFE).tolist() == [999]
        assert callback.doubt(alike.metrics(self.score, split.side, split.threshold))

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [({'rank_by': 'posterior'}, 'leave rank_by at similarity'), ({'first_fraction': 0.4}, 'leave it at null')],
    )
    def test_refuses_what_does_not_go_with_it(self, arguments: Any, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            SafeRiskyRepartition(size='calibrated', **arguments)

    def test_needs_pairs_that_are_known_not_to_match(self) -> None:
        callback = SafeRiskyRepartition(size='calibrated')
        with pytest.raises(UsageError, match='has no mismatched pair to go by'):
            callback.decide(self.score, np.full(1000, RISKY, np.int8), None)

    @quiet_lightning
    def test_is_refused_at_once_where_none_will_be_measured(self) -> None:
        callback = SafeRiskyRepartition(size='calibrated', score=Running())
        with pytest.raises(UsageError, match='score=Running does not measure'):
            trainer(5, callback).fit(PlantedModule(), PlantedData())
