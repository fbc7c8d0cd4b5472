from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.utilities.exceptions import SIGTERMException

from callbacks.figures import Figures
from callbacks.harmless import Harmless
from callbacks.ledger import FILE, ScoreLedger
from datamodules.usage_error import UsageError
from experiments.wandb_run import WandbRun
from tests.callbacks.observed import QUIET, ROWS, Answers, Data, MakeSplits, trainer

pytestmark = QUIET


class TestHarmless:
    def test_logs_each_kind_of_error_once(self, caplog: pytest.LogCaptureFixture) -> None:
        harmless = Harmless('drawing', 'the run goes on without figures')
        for error in (OSError('disk\nfull'), OSError('full again'), UsageError('no folder')):
            with harmless:
                raise error
        assert caplog.messages == [
            'drawing failed (OSError: disk): the run goes on without figures',
            'drawing failed (UsageError: no folder): the run goes on without figures',
        ]

    @pytest.mark.parametrize('signal', [KeyboardInterrupt, SIGTERMException, SystemExit])
    def test_the_end_of_a_run_passes(self, signal: type[BaseException]) -> None:
        with pytest.raises(signal), Harmless('drawing'):
            raise signal


def fails(*_: Any, **__: Any) -> None:
    raise OSError(28, 'No space left on device')


def test_a_full_disk_leaves_a_run_without_figures_and_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr('callbacks.ledger.write_ledger', fails)
    monkeypatch.setattr('callbacks.figures._save', fails)
    score, epochs = Data().similarity, 4
    run = trainer(tmp_path, [MakeSplits(score, ROWS // 2), ScoreLedger(), Figures(every_n_epochs=1)], epochs)
    with caplog.at_level(logging.WARNING):
        run.fit(Answers(), datamodule=Data())
    assert run.current_epoch == epochs
    assert 'partition/contamination' in run.callback_metrics
    figures, ledger = (record.getMessage() for record in caplog.records if record.name == 'callbacks.harmless')
    assert figures.startswith('drawing figures failed (OSError: [Errno 28]')
    assert f'{FILE} stays that of an earlier split' in ledger


class TestWandb:
    def test_that_cannot_start_is_left_alone(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        started: list[int] = []

        def refuse(**_: Any) -> None:
            started.append(1)
            raise ConnectionError('no server')

        monkeypatch.setattr('wandb.init', refuse)
        logger = WandbRun(offline=True)
        logger.wait_for_start()
        logger.log_hyperparams({'lr': 1})
        logger.start()
        for step in range(3):
            logger.log_metrics({'loss': 1.0}, step)
        assert started == [1]
        assert caplog.messages == ['logging to W&B failed (ConnectionError: no server): the run goes on without']
