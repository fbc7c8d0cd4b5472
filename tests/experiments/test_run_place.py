from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace

from datamodules.usage_error import UsageError
from experiments.run_place import Place, check_name, check_run, claim, place_of


class TestClaim:
    def test_two_runs_of_one_name_never_share_a_folder(self, tmp_path: Path) -> None:
        with ThreadPoolExecutor(8) as pool:
            folders = list(pool.map(claim, [Place(tmp_path / 'toy')] * 40))
        assert {path.name for path in folders} == {f'version_{number}' for number in range(40)}

    def test_what_measures_does_not_lie_among_what_trains(self, tmp_path: Path) -> None:
        (tmp_path / 'version_7').mkdir()
        assert claim(Place(tmp_path, 'predict')).name == 'predict_0'
        assert claim(Place(tmp_path)).name == 'version_8'

    def test_a_folder_that_is_named_may_exist_but_not_hold_anything(self, tmp_path: Path) -> None:
        (tmp_path / 'mine').mkdir()
        assert claim(Place(tmp_path, version='mine')) == tmp_path / 'mine'
        (tmp_path / 'mine/metrics.csv').touch()
        with pytest.raises(UsageError, match='mine is in use'):
            claim(Place(tmp_path, version='mine'))


def settings(*loggers: tuple[str, dict[str, Any]]) -> Namespace:
    logger = [Namespace(class_path=f'a.{name}', init_args=Namespace(**arguments)) for name, arguments in loggers]
    return Namespace(name='toy', trainer=Namespace(default_root_dir='runs', logger=logger))


class TestPlaceOf:
    @pytest.mark.parametrize(('subcommand', 'kind'), [('fit', 'version'), ('predict', 'predict')])
    def test_is_the_name_below_the_root(self, subcommand: str, kind: str) -> None:
        assert place_of(subcommand, settings(('WandbRun', {'name': 'other'}))) == (Path('runs/toy'), kind, None, None)

    @pytest.mark.parametrize(('version', 'folder'), [(None, None), (3, 'version_3'), ('mine', 'mine')])
    def test_or_what_a_csv_logger_says(self, version: Any, folder: str | None) -> None:
        csv_logger = ('CSVLogger', {'save_dir': 'here', 'name': 'r', 'version': version})
        place = place_of('fit', settings(('WandbRun', {}), csv_logger))
        assert (place.parent, place.version) == (Path('here/r'), folder)


class TestCheckRun:
    """The command of a control whose own run has left no checkpoint must not go on with the defended run's."""

    DEFENDED = 'seed_everything: 1\nmodel: {class_path: a.SafeCLIP}\n'
    DEFENDED += 'callbacks: {repartition: {class_path: b.SafeRiskyRepartition}}\n'
    MODEL = Namespace(class_path='lightning_modules.safeclip.SafeCLIP')
    SPLIT = Namespace(class_path='callbacks.repartition.SafeRiskyRepartition')

    def check(self, folder: Path, split: Any, earlier: str = DEFENDED, seed: int = 1) -> None:
        run = folder / 'version_0'
        run.mkdir()
        (run / 'config.yaml').write_text(earlier)
        config = Namespace(seed_everything=seed, model=self.MODEL, callbacks=Namespace(repartition=split))
        check_run(Place(folder, checkpoint=run / 'checkpoints/last.ckpt'), config)

    def test_a_run_of_another_split_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r'SafeCLIP with SafeRiskyRepartition, and .* SafeCLIP with no split'):
            self.check(tmp_path, None)

    def test_so_is_one_of_another_seed(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match='with seed_everything=1, and this one has 2'):
            self.check(tmp_path, self.SPLIT, seed=2)

    @pytest.mark.parametrize(
        'earlier', [DEFENDED, DEFENDED.replace('1', '${oc.env:SEED}'), '', '[1]', 'model: 3', '\0']
    )
    def test_one_of_the_same_or_of_an_unknown_one_is_not(self, tmp_path: Path, earlier: str) -> None:
        self.check(tmp_path, self.SPLIT, earlier)

    def test_nor_is_one_that_branches_off(self, tmp_path: Path) -> None:
        check_run(Place(tmp_path / 'other', checkpoint=tmp_path / 'toy/version_0/checkpoints/last.ckpt'), Namespace())


class TestCheckName:
    @pytest.mark.parametrize('name', ['', '.', '..', 'null', '../esc', 'a/../../b', '/tmp/x', ' a', 'a\n', 'a\0'])
    def test_what_is_no_folder_below_the_root_is_refused(self, name: str) -> None:
        with pytest.raises(UsageError, match=r'^name='):
            check_name(name)

    @pytest.mark.parametrize('name', ['toy', 'method/toy-d1', 'größe 2', '..a'])
    def test_other_names_pass(self, name: str) -> None:
        assert check_name(name) == name
