from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.imports import RequirementCache
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, Dataset

from datamodules.pictures.augment import ImageViews
from datamodules.rows.table import PairTable
from datamodules.toy_pairs import ToyPairs
from datamodules.usage_error import UsageError
from experiments.cli import main
from experiments.errors import fail, message_of, users_mistake
from lightning_modules.losses import info_nce
from tests.helpers.tiny import tiny_architecture


def refused_by_us() -> None:
    info_nce(torch.ones(4, 2), torch.ones(8, 2), torch.tensor(1.0))


def refused_by_a_library() -> None:
    np.zeros(3).reshape(2, 2)


def refused_by_the_trainer() -> None:
    raise MisconfigurationException('no such\n  accelerator')


def refused_by_interpolation() -> None:
    OmegaConf.to_container(OmegaConf.create({'fit': {'model': {'lr': '${rate}'}}}), resolve=True)


def refused_without_a_package() -> None:
    raise ModuleNotFoundError(str(RequirementCache('no-such-package')))  # as loggers of Lightning do


def imported_wrongly() -> None:
    import_module('no_such_package')


def called_wrongly() -> None:
    info_nce(None, None, None)


class Refusing(Dataset[int]):
    """A data set whose files are gone."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, row: int) -> int:
        raise UsageError('data.shards: a shard is gone.')


def raised_by(call: Callable[[], object]) -> Exception:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError(f'{call} raised nothing')


class TestUsersMistake:
    @pytest.mark.parametrize(
        'call', [refused_by_us, refused_by_the_trainer, refused_by_interpolation, refused_without_a_package]
    )
    def test_a_wrong_setting_is_one(self, call: Callable[[], None]) -> None:
        error = raised_by(call)
        assert users_mistake(error) is error

    def test_is_found_inside_what_the_parser_makes_of_it(self) -> None:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument('--views', type=ImageViews)
        config = parser.parse_args(['--views=SimCLRViews', '--views.crop_scale=[0.0, 1.0]'])
        mistake = users_mistake(raised_by(lambda: parser.instantiate(config)))
        assert str(mistake) == 'crop_scale must be two fractions of the area, least first, got (0.0, 1.0).'

    def test_a_package_that_is_missing_is_one(self) -> None:
        report = "Problem with given class_path 'a.Bar':\n  No module named 'rich'"
        assert message_of(users_mistake(ValueError(report)) or ValueError()) == (
            'Bar needs the package rich: pip install rich.'
        )

    def test_is_found_behind_what_it_caused(self) -> None:
        def refuse() -> None:
            try:
                refused_by_us()
            except ValueError as error:
                raise RuntimeError('while the parser tried') from error

        assert 'gather both' in str(users_mistake(raised_by(refuse)))

    @pytest.mark.parametrize('call', [called_wrongly, imported_wrongly, refused_by_a_library])
    def test_another_exception_is_a_bug(self, call: Callable[[], None]) -> None:
        assert users_mistake(raised_by(call)) is None


class BuggyPairs(ToyPairs):
    """Pairs whose table cannot be loaded for a mistake of whoever wrote the class."""

    def __init__(self, bug: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bug = bug

    def load_table(self) -> PairTable:
        BUGS[self.bug]()
        raise AssertionError(f'{self.bug} is no bug')


def unpack() -> None:
    for _first, _second in [(1, 2, 3)]:
        pass


BUGS: dict[str, Callable[[], object]] = {
    'empty': lambda: max([]),
    'unpacking': unpack,
    'zip': lambda: list(zip([1], [1, 2], strict=True)),
    'number': lambda: int('x'),
    'shape': refused_by_a_library,
    'key': lambda: {}['x'],
}


class TestBugs:
    @pytest.mark.parametrize('bug', BUGS)
    def test_reach_the_user_with_their_traceback(self, bug: str, tmp_path: Path) -> None:
        architecture = f'--model.architecture={tiny_architecture(tmp_path)}'
        data = ['--data=BuggyPairs', f'--data.bug={bug}', f'--data.cache_dir={tmp_path}']
        quiet = ['--trainer.accelerator=cpu', '--trainer.logger=false', '--trainer.callbacks=null']
        with pytest.raises((ValueError, KeyError)) as caught:  # not SystemExit, which is one sentence
            main(['export', '--model=CLIP', architecture, *data, *quiet, f'--folder={tmp_path}/pairs'])
        assert any(entry.path.name == Path(__file__).name for entry in caught.traceback[1:])


class TestMessageOf:
    def test_names_the_place_of_an_interpolation_without_the_subcommand(self) -> None:
        message = message_of(raised_by(refused_by_interpolation))
        assert message.startswith("model.lr: Interpolation key 'rate' not found")

    def test_is_one_line(self) -> None:
        assert message_of(raised_by(refused_by_the_trainer)) == 'no such accelerator'

    def test_of_a_loader_worker_is_its_sentence_alone(self) -> None:
        loader = DataLoader(Refusing(), num_workers=1)
        error = raised_by(lambda: list(loader))
        assert isinstance(error, UsageError) and 'Traceback' in str(error)
        assert message_of(error) == 'data.shards: a shard is gone.'


def test_fail_writes_one_line_and_exits_as_after_a_wrong_call(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        fail('data.batch_size must be positive.')
    assert exit.value.code == 2
    assert capsys.readouterr().err == 'error: data.batch_size must be positive.\n'
