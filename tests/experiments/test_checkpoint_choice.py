from __future__ import annotations

from pathlib import Path

import pytest
import torch

from datamodules.usage_error import UsageError
from experiments.checkpoint_choice import choose_checkpoint, newest_checkpoint, resumed_run, run_of, runs_newest_first


def save(path: Path, epoch: int = 0, **callback: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({'epoch': epoch, 'callbacks': {'ModelCheckpoint': callback}}, path)
    return path


class TestLast:
    def test_is_of_the_highest_number_that_has_one_whatever_the_clock_says(self, tmp_path: Path) -> None:
        newest = save(tmp_path / 'version_10/checkpoints/last.ckpt')
        save(tmp_path / 'version_9/checkpoints/last.ckpt')
        save(tmp_path / 'predict_12/checkpoints/last.ckpt')
        (tmp_path / 'version_11').mkdir()
        assert choose_checkpoint('last', tmp_path) == newest

    def test_is_of_the_highest_epoch_if_the_run_was_killed_before_the_first_last_one(self, tmp_path: Path) -> None:
        for epoch in (9, 10):
            newest = save(tmp_path / f'version_0/checkpoints/epoch={epoch}-step=1.ckpt')
        assert choose_checkpoint('last', tmp_path) == newest

    def test_is_looked_for_where_the_run_keeps_its_checkpoints(self, tmp_path: Path) -> None:
        last = save(tmp_path / 'here/last.ckpt')
        assert choose_checkpoint('last', tmp_path, str(last.parent)) == last

    @pytest.mark.parametrize('word', ['last', 'best'])
    def test_without_one_nothing_is_started(self, tmp_path: Path, word: str) -> None:
        with pytest.raises(
            UsageError, match=rf'^ckpt_path={word}: there is no checkpoint in .*\. To start anew, omit it'
        ):
            choose_checkpoint(word, tmp_path / 'toy')


class TestNewest:
    def test_is_the_last_one_or_none(self, tmp_path: Path) -> None:
        assert newest_checkpoint(tmp_path / 'toy') is None
        last = save(tmp_path / 'toy/version_3/checkpoints/last.ckpt')
        assert newest_checkpoint(tmp_path / 'toy') == choose_checkpoint('last', tmp_path / 'toy') == last


class TestBest:
    def test_is_the_one_that_the_newest_run_found_best_also_after_it_was_moved(self, tmp_path: Path) -> None:
        best = save(tmp_path / 'version_0/checkpoints/epoch=1.ckpt')
        save(best.with_name('last.ckpt'), monitor='zero_shot/heldout', best_model_path='/gone/epoch=1.ckpt')
        assert choose_checkpoint('best', tmp_path) == best
        best.unlink()
        with pytest.raises(UsageError, match='is gone'):
            choose_checkpoint('best', tmp_path)

    def test_without_a_metric_there_is_none(self, tmp_path: Path) -> None:
        save(tmp_path / 'version_0/checkpoints/last.ckpt', monitor=None, best_model_path='epoch=1.ckpt')
        with pytest.raises(UsageError, match='no metric decides which is best'):
            choose_checkpoint('best', tmp_path)

    def test_a_damaged_checkpoint_is_refused(self, tmp_path: Path) -> None:
        save(tmp_path / 'version_0/checkpoints/last.ckpt').write_bytes(b'404')
        with pytest.raises(UsageError, match=r'last\.ckpt. is no checkpoint of a run, or damaged'):
            choose_checkpoint('best', tmp_path)


@pytest.mark.parametrize('given', ['hpc', 'registry:model', '', 'folder'])
def test_what_is_no_file_is_refused(tmp_path: Path, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path('folder').mkdir()
    fault = 'is a folder' if given == 'folder' else 'does not exist'
    with pytest.raises(UsageError, match=rf'^ckpt_path={given!r} {fault}'):
        choose_checkpoint(given, tmp_path)


class TestResumedRun:
    def test_a_run_goes_on_in_its_folder(self, tmp_path: Path) -> None:
        last = save(tmp_path / 'version_3/checkpoints/last.ckpt', epoch=4)
        assert resumed_run(last, tmp_path) == tmp_path / 'version_3'
        assert resumed_run(save(last.with_name('epoch=4.ckpt'), epoch=4), tmp_path) == tmp_path / 'version_3'

    def test_also_from_another_checkpoint_if_the_last_one_is_damaged(self, tmp_path: Path) -> None:
        other = save(tmp_path / 'version_3/checkpoints/epoch=3.ckpt', epoch=3)
        other.with_name('last.ckpt').write_bytes(b'')
        assert resumed_run(other, tmp_path) == tmp_path / 'version_3'

    def test_from_an_older_checkpoint_another_run_branches_off(self, tmp_path: Path) -> None:
        old = save(tmp_path / 'version_3/checkpoints/epoch=3.ckpt', epoch=3)
        save(old.with_name('last.ckpt'), epoch=4)
        assert resumed_run(old, tmp_path) is None

    def test_from_a_checkpoint_of_another_name_too(self, tmp_path: Path) -> None:
        last = save(tmp_path / 'a/version_0/checkpoints/last.ckpt')
        assert resumed_run(last, tmp_path / 'b') is None
        assert resumed_run(save(tmp_path / 'a/copy.ckpt'), tmp_path / 'a') is None

    def test_paths_may_be_spelled_in_any_way(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        last = save(tmp_path / 'a/version_0/checkpoints/last.ckpt')
        (tmp_path / 'link').symlink_to(tmp_path / 'a')
        assert resumed_run(last, Path('a')) == Path('a/version_0')
        assert resumed_run(Path('link/version_0/checkpoints/last.ckpt'), Path('a')) == Path('a/version_0')


def test_a_checkpoint_elsewhere_is_of_no_run(tmp_path: Path) -> None:
    assert run_of(tmp_path / 'version_0/checkpoints/last.ckpt') == tmp_path / 'version_0'
    assert run_of(tmp_path / 'last.ckpt') is None


def test_runs_are_ordered_by_number(tmp_path: Path) -> None:
    for name in ('version_9', 'version_10', 'version_x', 'predict_11'):
        (tmp_path / name).mkdir()
    assert [path.name for path in runs_newest_first(tmp_path)] == ['version_10', 'version_9']
