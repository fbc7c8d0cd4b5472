from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from datamodules.attacks import Manifest
from datamodules.csv_pairs import CSVPairs
from datamodules.text.tokenizer import WordTokenizer
from datamodules.toy_pairs import ToyPairs
from experiments import cli
from experiments.command_line import CommandLine
from tests.experiments.conftest import EXPERIMENTS
from tests.helpers.tiny import set_up

ATTACK = '{patch: {class_path: BadNet, init_args: {target: striped star, count: 4, size: 4, captions: templates}}}'


@pytest.fixture(autouse=True, scope='module')
def quick() -> Iterator[None]:
    """Reads the vocabulary once, which takes longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('datamodules.pairs.WordTokenizer', cache(WordTokenizer))
        yield


def export(folder: Path, *args: str) -> CommandLine:
    """Runs ``clipward export`` on 64 toy pairs, into ``out`` unless told otherwise."""
    toy = ['--config', str(EXPERIMENTS / 'safeclip_toy.yaml'), '--data.rows=64', '--data.heldout_rows=48']
    places = [f'--data.cache_dir={folder}/cache', f'--trainer.default_root_dir={folder}/runs']
    return cli.main(['export', *toy, *places, f'--data.attacks={ATTACK}', f'--folder={folder}/out', *args])


class TestExport:
    def test_writes_what_a_run_with_this_configuration_would_see(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = export(tmp_path).datamodule
        assert isinstance(data, ToyPairs) and f'68 pairs in {tmp_path}/out' in capsys.readouterr().out
        again = set_up(CSVPairs(str(tmp_path / 'out/train.csv'), image_size=32, batch_size=8, cache_dir=str(tmp_path)))
        assert np.array_equal(again.images(np.arange(68)), data.images(np.arange(68)))
        assert Manifest.load(tmp_path / 'out/manifest.parquet').rows('patch').tolist() == [64, 65, 66, 67]
        assert not list((tmp_path / 'runs').rglob('version_*'))  # it is no run

    def test_writes_shards_if_asked(self, tmp_path: Path) -> None:
        export(tmp_path, '--form=webdataset')
        assert [path.name for path in (tmp_path / 'out/train').iterdir()] == ['00000.tar']

    def test_says_in_one_sentence_that_the_folder_is_in_use_before_it_decodes_anything(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / 'out').mkdir()
        (tmp_path / 'out/thesis.tex').touch()
        with pytest.raises(SystemExit) as exit:
            export(tmp_path)
        assert exit.value.code == 2 and not (tmp_path / 'cache').exists()
        assert f"error: folder='{tmp_path}/out' already exists and is not empty" in capsys.readouterr().err
