from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml

from callbacks.attack_success import wilson_interval
from experiments.report import Result, attack_cell, figure, load, main, read_run, save, table, trade_off


def write_version(run: Path, number: int, rows: list[dict[str, float]], name: str = 'toy') -> Path:
    """One attempt at a run, as the command leaves it."""
    folder = run / f'version_{number}'
    folder.mkdir(parents=True)
    columns = sorted({column for row in rows for column in row})
    with open(folder / 'metrics.csv', 'w', newline='') as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    config = {'name': name, 'seed_everything': 3, 'trainer': {'max_epochs': 4}}
    (folder / 'config.yaml').write_text(yaml.safe_dump(config))
    return folder


def attacked(name: str, seed: int, hits: int, n: int, accuracy: float = 0.5, clean: float = 0.1) -> Result:
    values = {'asr/badnet': hits / n, 'asr/badnet_hits': hits, 'asr/badnet_n': n, 'asr/badnet_clean': clean}
    series = {metric: [(4, float(value))] for metric, value in {**values, 'zero_shot/heldout': accuracy}.items()}
    return Result(name, seed, 4, series, seconds=10.0)


class TestReadRun:
    def test_counts_the_epochs_trained(self, tmp_path: Path) -> None:
        write_version(tmp_path, 0, [{'epoch': 0, 'zero_shot/heldout': 0.25}, {'epoch': 1, 'zero_shot/heldout': 0.5}])
        result = read_run(tmp_path)
        assert result.series['zero_shot/heldout'] == [(1, 0.25), (2, 0.5)]
        assert (result.first('zero_shot/heldout'), result.last('zero_shot/heldout')) == (0.25, 0.5)
        assert (result.name, result.seed, result.epochs) == ('toy', 3, 4)

    def test_takes_of_each_epoch_the_newest_attempt(self, tmp_path: Path) -> None:
        write_version(tmp_path, 9, [{'epoch': 0, 'zero_shot/a': 0.1}, {'epoch': 1, 'zero_shot/a': 0.2}])
        write_version(tmp_path, 10, [{'epoch': 1, 'zero_shot/a': 0.9}, {'epoch': 2, 'zero_shot/a': 0.3}])
        assert read_run(tmp_path).series['zero_shot/a'] == [(1, 0.1), (2, 0.9), (3, 0.3)]

    def test_adds_up_the_seconds_that_do_not_evaluate(self, tmp_path: Path) -> None:
        epoch = {'cost/train_s': 5.0, 'cost/sweep_s': 1.0, 'cost/mixture_s': 0.5, 'cost/evaluation_s': 100.0}
        write_version(tmp_path, 0, [{'epoch': 0, **epoch}, {'epoch': 1, **epoch}])
        assert read_run(tmp_path).seconds == 13.0

    def test_leaves_out_what_no_table_shows(self, tmp_path: Path) -> None:
        write_version(tmp_path, 0, [{'epoch': 0, 'train/loss': 3.0, 'zero_shot/a': 0.1}])
        assert list(read_run(tmp_path).series) == ['zero_shot/a']

    def test_names_a_folder_without_a_run(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r'holds no metrics\.csv: give the folder of a run'):
            read_run(tmp_path)


class TestSave:
    def test_gives_back_what_it_kept(self, tmp_path: Path) -> None:
        result = attacked('clip', 1, hits=2, n=7)
        save(result, tmp_path / 'new' / 'clip_1.json')
        again = load(tmp_path / 'new' / 'clip_1.json')
        assert again.last('asr/badnet') == pytest.approx(2 / 7, abs=1e-6)
        assert again.series.keys() == result.series.keys() and again.seconds == result.seconds


class TestTable:
    def test_adds_up_the_images_of_all_seeds(self) -> None:
        cell = attack_cell([attacked('clip', 1, 90, 100), attacked('clip', 2, 10, 100, clean=0.2)], 'badnet')
        low, high = wilson_interval(100, 200)
        assert cell == f'0.500 [{low:.3f}, {high:.3f}] (0.150)'

    def test_shows_few_images_as_counts(self) -> None:
        assert attack_cell([attacked('clip', 1, 3, 16)], 'badnet').startswith('3/16 [')

    def test_has_a_row_for_each_name_and_says_how_far_seeds_differ(self) -> None:
        clips = [attacked('clip', seed, 1, 200, accuracy) for seed, accuracy in ((1, 0.4), (2, 0.6))]
        runs = [clips[0], attacked('safeclip', 1, 1, 200, 0.3), clips[1]]
        head, _, clip, safeclip = table(runs).splitlines()
        assert [line.count('|') for line in (head, clip, safeclip)] == [head.count('|')] * 3
        assert '| clip | 2 | 0.500 (0.400 to 0.600) |' in clip and '| safeclip | 1 | 0.300 |' in safeclip

    def test_a_run_that_was_not_attacked_leaves_its_cells_empty(self) -> None:
        twin = Result('twin', 1, 4, {'zero_shot/heldout': [(4, 0.5)]}, 1.0)
        assert '| - |' in table([attacked('clip', 1, 1, 200), twin]).splitlines()[-1]


class TestFigure:
    def test_has_a_panel_for_each_attack_and_one_for_accuracy(self) -> None:
        drawn = figure([attacked('clip', 1, 1, 200), attacked('clip', 2, 1, 200), attacked('safeclip', 1, 0, 200)])
        assert [axis.get_title() for axis in drawn.axes] == ['badnet: attack success rate', 'zero-shot accuracy']
        labels = [line.get_label() for line in drawn.axes[0].lines]
        assert [label for label in labels if not str(label).startswith('_')] == ['clip', 'safeclip']

    def test_shades_the_interval_of_each_run(self) -> None:
        run = attacked('clip', 1, 1, 200)
        run.series.update({'asr/badnet_low': [(4, 0.001), (5, 0.2)], 'asr/badnet_high': [(4, 0.03), (5, 0.4)]})
        (band,) = figure([run]).axes[0].collections
        (path,) = band.get_paths()
        corners = {tuple(corner.tolist()) for corner in path.vertices}
        assert corners == {(4, 0.001), (4, 0.03), (5, 0.2), (5, 0.4)}

    def test_of_the_trade_off_has_a_point_for_each_run(self) -> None:
        runs = [attacked('clip', 1, 150, 200, 0.4), attacked('clip', 2, 1, 200), attacked('safeclip', 1, 0, 200)]
        (axis,) = trade_off(runs).axes
        points = {str(line.get_label()): [tuple(point) for point in line.get_xydata()] for line in axis.lines}
        assert points == {'clip': [(0.4, 0.75), (0.5, 0.005)], 'safeclip': [(0.5, 0.0)]}


def test_the_command_reads_runs_and_results_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_version(tmp_path / 'run', 0, [{'epoch': 0, 'zero_shot/heldout': 0.25}], name='fresh')
    save(attacked('kept', 1, 1, 200), tmp_path / 'kept_1.json')
    arguments = [str(tmp_path / 'run'), str(tmp_path / 'kept_1.json')]
    arguments += [f'--figure={tmp_path}/new/f.png', f'--trade-off={tmp_path}/new/t.png', f'--save={tmp_path}/saved']
    monkeypatch.setattr('sys.argv', ['report', *arguments])
    main()
    printed = capsys.readouterr().out
    assert '| fresh | 1 | 0.250 |' in printed and '| kept | 1 |' in printed
    assert all((tmp_path / 'new' / name).stat().st_size > 1000 for name in ('f.png', 't.png'))
    assert {path.name for path in (tmp_path / 'saved').iterdir()} == {'fresh_3.json', 'kept_1.json'}
