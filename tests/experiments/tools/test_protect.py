from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.csv_pairs import CSVPairs
from datamodules.pictures.noise_store import NoiseStore
from datamodules.text.tokenizer import WordTokenizer
from experiments import cli
from tests.experiments.tool_runs import SIDE
from tests.helpers.tiny import set_up, tiny_architecture

PAIRS = 24


@pytest.fixture(autouse=True, scope='module')
def quick() -> Iterator[None]:
    """Reads the vocabulary once, which takes longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('datamodules.pairs.WordTokenizer', cache(WordTokenizer))
        yield


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of MEM."""
    folder = tmp_path_factory.mktemp('mem')
    architecture = tiny_architecture(folder, 'protector', image_size=SIDE)
    short = ['--model.surrogate_steps=1', '--model.noise_steps=1', '--trainer.max_epochs=2', '--data.batch_size=8']
    toy = ['--data=ToyPairs', f'--data.rows={PAIRS}', '--data.heldout_rows=8', f'--data.scene_size={SIDE}']
    quiet = ['--trainer.accelerator=cpu', '--trainer.callbacks=null', '--data.templates=["a {}"]', '--name=mem']
    folders = [f'--data.cache_dir={folder}/cache', f'--trainer.default_root_dir={folder}']
    model = ['--model=MEM', f'--model.architecture={architecture}', '--callbacks.zero_shot=null']
    cli.main(['fit', *toy, *model, '--config=methods/mem.yaml', *short, *quiet, *folders])
    return folder / 'mem/version_0'


def refusal(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as exit:
        cli.main(['protect', *args])
    assert exit.value.code == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith('error: '))
    return line.removeprefix('error: ')


class TestProtect:
    def test_needs_nothing_but_the_store_of_a_run(
        self, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = cli.main(['protect', f'--store={run}/noise', f'--out={tmp_path}/out']).datamodule
        assert f'{PAIRS} pairs with {PAIRS} pictures in {tmp_path}/out' in capsys.readouterr().out
        sizes = {'image_size': SIDE, 'batch_size': 8, 'cache_dir': str(tmp_path / 'cache')}
        again, rows = set_up(CSVPairs(str(tmp_path / 'out/train.csv'), **sizes)), np.arange(PAIRS)
        store = NoiseStore.open(run / 'noise')
        expected = (data.images(rows).astype(int) + store.noise(store.unit[rows])).clip(0, 255)
        assert np.array_equal(again.images(rows), expected) and store.noise(store.unit).any()

    def test_draws_a_sheet_beside_what_is_published(self, run: Path, tmp_path: Path) -> None:
        cli.main(['protect', f'--store={run}/noise', f'--out={tmp_path}/out'])
        with Image.open(tmp_path / 'out_sheet.png') as sheet:
            assert sheet.height > sheet.width > 500  # six rows of three pictures
        assert not [*(tmp_path / 'out').glob('*sheet*')]

    def test_a_store_elsewhere_goes_with_the_settings_of_its_run(self, run: Path, tmp_path: Path) -> None:
        shutil.copytree(run / 'noise', tmp_path / 'mine')
        given = [f'--config={run}/config.yaml', f'--store={tmp_path}/mine', f'--out={tmp_path}/out', '--heldout=true']
        cli.main(['protect', *given])
        assert (tmp_path / 'out/heldout.csv').is_file()


class TestRefused:
    @pytest.mark.parametrize(
        ('changed', 'sentence'),
        [
            (['--store=nowhere'], 'nowhere holds no noise (store.json is missing or damaged): make it with clipward'),
            (['--trainer.max_epochs=3'], 'holds noise after 2 of 3 rounds: let clipward fit go on'),
            (['--data.scene_seed=9'], 'holds noise of other pairs, or some have been changed since'),
            (['--model.eps=4'], 'holds noise of eps=8, not 4'),
            (['--model.trigger_start=a'], 'holds noise of trigger_start=the, not a'),
            (['--model.noise_start=random'], 'holds noise of noise_start=zero, not random'),
            (['--data.average_copies=4'], 'would publish mean pictures in the place of yours'),
            (['--share=0'], 'share must lie in (0, 1], got 0'),
            (['--model=CLIP'], 'CLIP protects no pairs: give the config.yaml of a run of MEM, EM or UAP'),
        ],
    )
    def test_what_is_no_store_of_these_pairs(
        self, changed: list[str], sentence: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        given = [f'--config={run}/config.yaml', f'--store={run}/noise', f'--out={tmp_path}/out']
        assert sentence in refusal(capsys, *given, *changed)
        assert not (tmp_path / 'out').exists()

    def test_a_folder_in_use(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert 'already exists' in refusal(capsys, f'--store={run}/noise', f'--out={run}')
