from __future__ import annotations

import json
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from PIL import Image

from experiments.bench import run
from experiments.bench.run import Cost


def test_ratios_are_taken_within_the_runs_that_took_turns() -> None:
    first = {'clip': Cost(10, 20, ()), 'safeclip': Cost(11, 24, (0.2, 0.35)), 'other': Cost(20, 48, (0.4, 0.46))}
    results = {result.what: (result.value, result.verdict) for result in run.compare(first)}
    assert results['SafeCLIP over CLIP'] == (1.1, 'pass')
    assert results['SafeCLIP over the other checkout'] == (0.55, 'pass')
    assert 'SafeCLIP, of one core (safe: 0.20, 0.35)' in results
    second = {'clip': Cost(20, 40, ()), 'retrain': Cost(12, 30, ())}
    assert [result.value for result in run.compare_retrain(first, second)] == pytest.approx([0.6, 1.7, 1.95])


def test_canaries_of_the_recipe_are_all_as_rare_as_in_it() -> None:
    recipe = yaml.safe_load((run.THIS_CHECKOUT / 'experiments/presets/canaries.yaml').read_text())
    assert [*run.CANARIES] == [*recipe['data']['init_args']['canaries']]
    assert '--data.canaries.mark.init_args.at_least=16' in run.defense_options(run.PAIRS)


def test_processes_run_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, 'TURN', 0.02)
    runs = [subprocess.Popen(['sleep', '0.05']) for _ in range(2)]
    turns = run.take_turns(runs)
    assert [process.returncode for process in runs] == [0, 0]
    in_order = sorted(turn for of_process in turns for turn in of_process)
    assert all(end <= began for (_, end), (began, _) in pairwise(in_order))


def test_a_failure_ends_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(job: run.Job, folder: Path) -> subprocess.Popen[bytes]:
        (folder / run.LOG).write_text(f'log of {job.config}')
        return subprocess.Popen([job.config, *job.options])

    monkeypatch.setattr(run, 'start', start)
    jobs = {'good': run.Job(tmp_path, 'sleep', ('60',)), 'bad': run.Job(tmp_path, 'false')}
    monkeypatch.setattr(run, 'TURN', 0.02)
    with pytest.raises(RuntimeError, match='log of false'):
        run.train_in_turns(jobs, tmp_path / 'runs')


def test_only_turns_within_the_training_loop_count(tmp_path: Path) -> None:
    (tmp_path / run.CLOCK).write_text(json.dumps({'cpu': 3.0, 'began': 5.0, 'ended': 12.0}))
    (tmp_path / 'metrics.csv').write_text('epoch,partition/share\n1,\n2,0.2\n3,0.35\n')
    assert run.read_cost(tmp_path, [(0, 4), (4, 6), (8, 10), (11, 14)]) == Cost(3.0, 4.0, (0.2, 0.35))


def test_pictures_have_a_folder_for_each_class(tmp_path: Path) -> None:
    run.draw_pictures(tmp_path, 15)
    assert {len(list((tmp_path / 'train' / name).iterdir())) for name in run.NAMES} == {2}
    with Image.open(next((tmp_path / 'test' / 'truck').iterdir())) as picture:
        assert picture.size == (32, 32)
