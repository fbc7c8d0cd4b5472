from __future__ import annotations

import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.usage_error import UsageError
from experiments.results import Result
from experiments.run_folder import DONE
from experiments.run_results import finished_version, read_run, read_runs, versions
from tests.experiments.finished_runs import write_version

OLD_NAMES = {'asr/badnet': 0.5, 'asr/badnet_clean': 0.1, 'asr/badnet_low': 0.2, 'asr/badnet_high': 0.8,
             'asr/badnet_hits': 2.0, 'asr/badnet_n': 4.0, 'zero_shot/a': 0.6, 'zero_shot/a_top5': 0.9}  # fmt: skip
CURRENT_NAMES = {'asr/badnet/rate': 0.5, 'asr/badnet/clean': 0.1, 'asr/badnet/low': 0.2, 'asr/badnet/high': 0.8,
                 'asr/badnet/hits': 2.0, 'asr/badnet/n': 4.0, 'zero_shot/a': 0.6, 'zero_shot_top5/a': 0.9}  # fmt: skip
MEASURED = {'epoch': 0, 'zero_shot/a': 0.5}
NAN = float('nan')


def read(version: Path) -> Result:
    result = read_run(version)
    assert result is not None
    return result


class TestReadRun:
    def test_counts_the_epochs_trained(self, tmp_path: Path) -> None:
        epochs = [{'epoch': epoch, 'zero_shot/a': value} for epoch, value in ((0, 0.25), (1, 0.5))]
        result = read(write_version(tmp_path, 0, epochs))
        assert result.series['zero_shot/a'] == [(1, 0.25), (2, 0.5)]
        assert (result.name, result.seed, result.data_seed, result.epochs, result.caveat) == ('toy', 3, 5, 4, '')

    def test_seconds_leave_out_evaluation(self, tmp_path: Path) -> None:
        epoch = {'cost/train_s': 5.0, 'cost/sweep_s': 1.0, 'cost/mixture_s': 0.5, 'cost/evaluation_s': 100.0}
        assert read(write_version(tmp_path, 0, [{'epoch': 0, **epoch}, {'epoch': 1, **epoch}])).seconds == 13.0

    def test_keeps_only_metrics_of_tables_and_figures(self, tmp_path: Path) -> None:
        assert list(read(write_version(tmp_path, 0, [{**MEASURED, 'train/lr': 3.0}])).series) == ['zero_shot/a']

    def test_keeps_the_mean_loss_of_each_epoch(self, tmp_path: Path) -> None:
        rows = [{'epoch': 0, 'train/loss': 3.0}, {'epoch': 0, 'train/loss': 2.0}, MEASURED]
        rows += [{'epoch': 1, 'train/loss': 1.0}, {**MEASURED, 'epoch': 1}]
        assert read(write_version(tmp_path, 0, rows)).series['train/loss'] == [(1, 2.5), (2, 1.0)]

    def test_keeps_what_probes_measured(self, tmp_path: Path) -> None:
        names = ('asr_knn/badnet/n', 'asr_probe/badnet/n', 'knn/a', 'probe/a')
        row = {'epoch': 0, **dict.fromkeys(names, 1.0)}
        assert tuple(read(write_version(tmp_path, 0, [row])).series) == names

    def test_retrieval_alone_is_a_measurement(self, tmp_path: Path) -> None:
        rows = [{'epoch': 0, 'retrieval/val/i2t_medr': 40.0}]
        assert read(write_version(tmp_path, 0, rows)).series == {'retrieval/val/i2t_medr': [(1, 40.0)]}

    def test_reads_a_run_that_measured_retrieval_alone(self, tmp_path: Path) -> None:
        ranks = {'epoch': 0, 'retrieval/heldout/i2t_medr': 12.5}
        assert read(write_version(tmp_path, 0, [ranks])).series == {'retrieval/heldout/i2t_medr': [(1, 12.5)]}

    def test_counts_the_poisons_of_each_attack(self, tmp_path: Path) -> None:
        version = write_version(tmp_path, 0, [MEASURED])
        pq.write_table(pa.table({'attack': ['badnet', 'tdpa', 'badnet']}), version / 'manifest.parquet')
        assert read(version).poisons == {'badnet': 2, 'tdpa': 1}

    def test_reads_what_filters_have_kept(self, tmp_path: Path) -> None:
        version = write_version(tmp_path, 0, [MEASURED])
        assert read(version).kept is None
        (version / 'kept.json').write_text('{"share": 0.25, "poisons": {"badnet": 1}}')
        assert (read(version).kept, read(version).kept_poisons) == (0.25, {'badnet': 1})
        (version / 'kept.json').write_text('{}')
        with pytest.raises(UsageError, match=r'kept.json is missing, cut or not what a run writes'):
            read(version)

    def test_old_metric_names_are_read_as_current_ones(self, tmp_path: Path) -> None:
        result = read(write_version(tmp_path, 0, [{'epoch': 0, **OLD_NAMES}]))
        assert result.series == {metric: [(1, value)] for metric, value in CURRENT_NAMES.items()}

    def test_what_is_not_finite_was_not_measured(self, tmp_path: Path) -> None:
        rows = [MEASURED, {'epoch': 1, 'zero_shot/a': NAN, 'asr/b/rate': float('inf')}]
        assert read(write_version(tmp_path, 0, rows)).series == {'zero_shot/a': [(1, 0.5)]}

    def test_a_run_that_diverged_measured_nothing(self, tmp_path: Path) -> None:
        rows = [MEASURED, {'epoch': 1, 'zero_shot/a': 0.1, 'train/loss': NAN}]
        result = read(write_version(tmp_path, 0, rows))
        assert result.series == {} and result.caveat.startswith('diverged in epoch 2')

    def test_says_what_is_not_a_whole_run(self, tmp_path: Path) -> None:
        stopped = read(write_version(tmp_path, 0, [MEASURED, {**MEASURED, 'epoch': 2}], is_finished=False))
        assert stopped.caveat == 'not finished, in epoch 3 of 4'
        part = read(write_version(tmp_path, 1, [{**MEASURED, 'epoch': 3}]))
        assert part.caveat.startswith('a part, which begins in epoch 4')

    def test_what_trained_or_measured_nothing_is_no_run(self, tmp_path: Path) -> None:
        assert read_run(write_version(tmp_path, 0, [MEASURED], allow_untrained=False)) is None
        assert read_run(write_version(tmp_path, 1, [], is_finished=False)) is None
        assert read_run(tmp_path) is None

    def test_settings_tell_runs_apart_that_differ_by_more_than_their_seeds(self, tmp_path: Path) -> None:
        def settings(number: int, lr: float, seed: int) -> str:
            model = {'class_path': 'CLIP', 'init_args': {'lr': lr}}
            kept = {'ledger': {'class_path': 'LedgerFilter', 'init_args': {'file': f'{seed}/ledger.parquet'}}}
            poisons = {'seed': seed, 'pool_seed': seed, 'fold': seed}
            arguments = {'seed': seed, 'cache_dir': str(number), 'filters': kept, 'attacks': {'tdpa': poisons}}
            data = {'class_path': 'ToyPairs', 'init_args': arguments}
            return read(write_version(tmp_path, number, [MEASURED], model=model, data=data)).settings

        assert settings(0, 0.1, 1) == settings(1, 0.1, 2) != settings(2, 0.2, 1)

    def test_an_option_that_a_later_release_has_added_does_not_matter_unless_it_is_set(self, tmp_path: Path) -> None:
        def settings(number: int, data: dict[str, object]) -> str:
            return read(write_version(tmp_path, number, [MEASURED], data={'init_args': data})).settings

        assert settings(0, {}) == settings(1, {'trusted': None}) != settings(2, {'trusted': 'KeyList'})

    @pytest.mark.parametrize(
        ('name', 'content'),
        [
            ('metrics.csv', b''),
            ('metrics.csv', b'epoch,zero_shot/a\n0,0.5\n1,0.'),
            ('metrics.csv', b'epoch,zero_shot/a\n0\n'),
            ('metrics.csv', b'epoch,zero_shot/a\nzero,0.5\n'),
            ('metrics.csv', b'zero_shot/a\n0.5\n'),
            ('metrics.csv', b'epoch,zero_shot/a,train/loss\n0,0.5,low\n'),
            ('metrics.csv', b'epoch,"zero_shot/a\n'),
            ('metrics.csv', b'\xff\xfe\0\n'),
            ('metrics.csv', None),
            ('config.yaml', None),
            ('config.yaml', b''),
            ('config.yaml', b'[toy]'),
            ('config.yaml', b'{name: toy'),
            ('config.yaml', b'\x00'),
            ('config.yaml', b'{name: toy, seed_everything: 3, trainer: [4]}'),
            ('config.yaml', b'{name: toy, seed_everything: .inf, trainer: {max_epochs: 4}}'),
            ('config.yaml', b'{name: toy, seed_everything: x, trainer: {max_epochs: 4}}'),
            ('config.yaml', b'{name: toy, seed_everything: 3, trainer: {max_epochs: 4}, data: 7}'),
            ('manifest.parquet', b'PAR1'),
            ('manifest.parquet', b''),
        ],
    )
    def test_names_the_file_that_is_damaged(self, name: str, content: bytes | None, tmp_path: Path) -> None:
        version = write_version(tmp_path, 0, [MEASURED])
        if content is None:
            (version / name).unlink()
        else:
            (version / name).write_bytes(content)
        with pytest.raises(UsageError, match=rf'version_0/{name} is missing, cut or not what a run writes: [^.]+\.$'):
            read_run(version)

    @pytest.mark.skipif(os.name == 'nt', reason='pipes of Unix')
    @pytest.mark.parametrize('name', ['metrics.csv', 'config.yaml', 'manifest.parquet'])
    def test_nothing_waits_for_a_pipe(self, name: str, tmp_path: Path) -> None:
        version = write_version(tmp_path, 0, [MEASURED])
        (version / name).unlink(missing_ok=True)
        os.mkfifo(version / name)
        with pytest.raises(UsageError, match=f'{name} is missing, cut or not what a run writes'):
            read_run(version)

    def test_a_manifest_without_attacks_is_damaged(self, tmp_path: Path) -> None:
        version = write_version(tmp_path, 0, [MEASURED])
        pq.write_table(pa.table({'row': [1]}), version / 'manifest.parquet')
        with pytest.raises(UsageError, match=r'manifest\.parquet is missing, cut'):
            read_run(version)


class TestReadRuns:
    def test_the_only_training_run_has_the_name_of_its_configuration(self, tmp_path: Path) -> None:
        write_version(tmp_path, 0, [MEASURED], is_finished=False, allow_untrained=True)
        write_version(tmp_path, 1, [], is_finished=False)
        write_version(tmp_path, 2, [MEASURED])
        assert [run.name for run in read_runs(tmp_path)] == ['toy']
        assert [run.name for run in read_runs(tmp_path / 'version_2')] == ['toy']

    def test_versions_are_never_merged(self, tmp_path: Path) -> None:
        write_version(tmp_path, 10, [{'epoch': 1, 'zero_shot/a': 0.9}, {'epoch': 2, 'zero_shot/a': 0.3}])
        write_version(tmp_path, 9, [{'epoch': 0, 'zero_shot/a': 0.1}, {'epoch': 1, 'zero_shot/a': 0.2}])
        runs = read_runs(tmp_path)
        assert [run.name for run in runs] == ['toy/version_9', 'toy/version_10']
        assert runs[0].series['zero_shot/a'] == [(1, 0.1), (2, 0.2)]

    def test_methods_are_named_where_they_differ(self, tmp_path: Path) -> None:
        model = {'class_path': 'lightning_modules.SafeCLIP'}
        split = {'repartition': {'class_path': 'callbacks.SafeRiskyRepartition'}}
        write_version(tmp_path, 0, [MEASURED], model=model, callbacks=split)
        write_version(tmp_path, 1, [MEASURED], model=model, callbacks={'repartition': None})
        assert [run.name for run in read_runs(tmp_path)] == [
            'toy/version_0 (SafeCLIP, SafeRiskyRepartition)',
            'toy/version_1 (SafeCLIP, no split)',
        ]

    def test_names_a_folder_without_a_run(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match='holds no run that was trained and measured: give a folder such as'):
            read_runs(tmp_path)

    def test_names_a_run_that_ended_before_it_measured_anything(self, tmp_path: Path) -> None:
        write_version(tmp_path, 0, [{'epoch': 0, 'train/loss': 1.0}], is_finished=False)
        with pytest.raises(UsageError, match='no measurement, since its run did not finish: resume it with'):
            read_runs(tmp_path)


def test_versions_are_ordered_by_number_not_by_clock(tmp_path: Path) -> None:
    for number in (10, 9):
        write_version(tmp_path, number, [MEASURED], is_finished=number == 9)
    for name in ('version_11.bak', 'version_x'):
        (tmp_path / name).mkdir()
    (tmp_path / 'version_12').touch()
    assert [version.name for version in versions(tmp_path)] == ['version_9', 'version_10']
    assert finished_version(tmp_path) == tmp_path / 'version_9'
    (tmp_path / 'version_10' / DONE).touch()
    assert finished_version(tmp_path) == tmp_path / 'version_10'
    assert finished_version(tmp_path / 'none') is None


@pytest.mark.parametrize('name', ['metrics.csv', 'config.yaml', 'manifest.parquet'])
def test_whatever_a_file_holds_it_is_read_or_named(name: str, tmp_path: Path) -> None:
    version = write_version(tmp_path, 0, [MEASURED, {'epoch': 1, 'cost/train_s': 2.0, 'train/loss': 1.0}])
    pq.write_table(pa.table({'attack': ['badnet'] * 9}), version / 'manifest.parquet')
    whole, draw = (version / name).read_bytes(), random.Random(0)
    for _ in range(60):
        start, end = sorted(draw.choices(range(len(whole)), k=2))
        inserted = bytes(draw.choices(b'\n,"[]{}:0-.e&*!\0\xff', k=draw.randrange(4)))
        (version / name).write_bytes(whole[:start] + inserted + whole[draw.choice((end, start + 1)) :])
        try:
            read_run(version)
        except UsageError as error:
            assert f'{version / name} ' in str(error)
