from __future__ import annotations

import csv
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from experiments.protect_photos import main
from lightning_modules.unlearnable import MEM
from tests.helpers.published import write_people
from tests.helpers.tiny import tiny_architecture

ROOT = Path(__file__).parents[2]


def draw_photos(folder: Path) -> Path:
    """Writes a folder of pictures in several colors, and their captions."""
    folder.mkdir()
    with (folder / 'pairs.csv').open('w', newline='') as file:
        lines = csv.writer(file)
        lines.writerow(['image', 'caption'])
        for number in range(9):
            Image.new('RGB', (40, 30), (20 * number, 200 - 20 * number, 90)).save(folder / f'{number}.png')
            lines.writerow([f'{number}.png', f'photo {number}'])
    return folder


def protect(photos: Path, out: Path, *options: str) -> None:
    """Runs ``make protect`` with a model that takes seconds."""
    small = [f'--model.architecture={tiny_architecture(out.parent, "photos", image_size=8)}', '--data.batch_size=4']
    short = ['--model.surrogate_steps=1', '--model.noise_steps=1', '--trainer.max_epochs=2', '--data.templates=["{}"]']
    quiet = ['--trainer.callbacks=null', '--trainer.accelerator=cpu', f'--data.cache_dir={out.parent}/cache']
    main([f'--photos={photos}', f'--out={out}', *small, *short, *quiet, *options])


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def test_goes_on_with_more_rounds_and_after_a_limit_of_time(tmp_path: Path) -> None:
    photos = draw_photos(tmp_path / 'photos')
    protect(photos, tmp_path / 'whole', '--trainer.max_epochs=3')
    with pytest.raises(SystemExit):
        protect(photos, tmp_path / 'out', '--trainer.max_epochs=3', '--trainer.max_time={seconds: 0}')
    protect(photos, tmp_path / 'out', '--trainer.max_epochs=3', '--share=0.5')
    manifest = pq.read_table(tmp_path / 'out/manifest.parquet')
    assert sum(manifest['protected'].to_pylist()) == 4  # of nine photos
    shutil.rmtree(tmp_path / 'out')
    protect(photos, tmp_path / 'out', '--trainer.max_epochs=3')
    assert content(tmp_path / 'out') == content(tmp_path / 'whole')


def test_goes_on_where_it_was_stopped_and_leaves_the_photos_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = draw_photos(tmp_path / 'photos')
    before = content(photos)
    protect(photos, tmp_path / 'whole')
    begin = MEM.on_train_epoch_start

    def die(self: Any) -> None:
        if self.current_epoch == 1:
            raise RuntimeError('killed')
        begin(self)

    monkeypatch.setattr(MEM, 'on_train_epoch_start', die)
    with pytest.raises(RuntimeError, match='killed'):
        protect(photos, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()
    monkeypatch.undo()
    protect(photos, tmp_path / 'out')
    assert len(list((tmp_path / 'out_run/mem_photos').glob('version_*'))) == 1
    assert content(tmp_path / 'out') == content(tmp_path / 'whole') and content(photos) == before
    assert sum(name.endswith('.png') for name in content(tmp_path / 'out')) == 9


@pytest.mark.slow
def test_protects_people_in_folders(tmp_path: Path) -> None:
    write_people(tmp_path / 'people', {'Ada_Bo': 4, 'Zoe_Lind': 3})
    protect(tmp_path / 'people', tmp_path / 'out', '--data.class_names=[Jane Roe, Mary Major]')
    text = (tmp_path / 'out/train.csv').read_text()
    assert text.count('Jane Roe') == 3 and text.count('Mary Major') == 2  # of each person, one is held out


class TestAfterTheRun:
    @pytest.fixture
    def commands(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
        """What is run for photos whose noise is there already."""
        (tmp_path / 'out_run/mem_photos/version_0').mkdir(parents=True)
        (tmp_path / 'out_run/mem_photos/version_0/DONE').touch()
        run: list[list[str]] = []
        monkeypatch.setattr('experiments.cli.main', lambda arguments: run.append([*arguments]))
        return run

    def test_noise_is_published_with_the_photos_and_options_that_are_given(
        self, tmp_path: Path, commands: list[list[str]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """So noise of other photos, or of another eps, is refused."""
        photos = draw_photos(tmp_path / 'photos')
        main([f'--photos={photos}', f'--out={tmp_path}/out', '--model.eps=4'])
        ((tool, _, *given),) = commands
        assert tool == 'protect' and given[:2] == [f'--data.train={photos}/pairs.csv', '--model.eps=4']
        assert 'delete it to make other noise' in capsys.readouterr().out

    def test_one_process_publishes(
        self, tmp_path: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr('lightning.pytorch.utilities.rank_zero_only.rank', 1)
        main([f'--photos={draw_photos(tmp_path / "photos")}', f'--out={tmp_path}/out'])
        assert commands == []


@pytest.mark.skipif(shutil.which('make') is None, reason='without make')
def test_names_of_folders_may_have_spaces() -> None:
    words = ['make', '--dry-run', 'protect', 'DATA=my photos', 'OUT=my pictures', 'PYTHON=python']
    printed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (line,) = (line for line in printed.splitlines() if 'protect_photos' in line)  # not those of the setup
    assert shlex.split(line)[-2:] == ['--photos=my photos', '--out=my pictures']


class TestRefused:
    def check_refused(self, capsys: pytest.CaptureFixture[str], photos: Path, out: Path, sentence: str) -> None:
        with pytest.raises(SystemExit) as exit:
            main([f'--photos={photos}', f'--out={out}'])
        assert exit.value.code == 2 and sentence in capsys.readouterr().err

    def test_a_folder_that_is_missing_or_bare(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.check_refused(capsys, tmp_path / 'photos', tmp_path / 'out', 'photos is no folder: name the one')
        (tmp_path / 'photos').mkdir()
        self.check_refused(capsys, tmp_path / 'photos', tmp_path / 'out', 'photos has neither pairs.csv, with a path')

    def test_photos_beside_the_folders_of_people(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        photos = draw_photos(tmp_path / 'photos')
        (photos / 'pairs.csv').unlink()
        (photos / 'Jane_Roe').mkdir()
        self.check_refused(capsys, photos, tmp_path / 'out', "has 9 photos beside its folders, such as '0.png'")

    def test_a_place_that_is_taken_or_among_the_photos(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        photos = draw_photos(tmp_path / 'photos')
        self.check_refused(capsys, photos, photos, 'already exists and is not empty')
        self.check_refused(capsys, photos, photos / 'out', 'is inside the photos')

    @pytest.mark.parametrize('name', ['captions.csv', 'list.parquet'])
    def test_lists_beside_folders_that_are_no_people(
        self, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / 'photos/images').mkdir(parents=True)
        (tmp_path / 'photos' / name).touch()
        sentence = f'has {name!r} beside its folders: rename it to pairs.csv'
        self.check_refused(capsys, tmp_path / 'photos', tmp_path / 'out', sentence)

    def test_photos_that_are_protected_already(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        photos = draw_photos(tmp_path / 'photos')
        (photos / 'protection.json').touch()
        self.check_refused(capsys, photos, tmp_path / 'out', 'photos is protected already: name the folder')

    def test_another_place_for_noise_and_a_share_out_of_range(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        photos = draw_photos(tmp_path / 'photos')
        for option, sentence in {
            '--model.store=x': 'has its place in out_run',
            '--share=2': 'share must lie in',
        }.items():
            with pytest.raises(SystemExit):
                main([f'--photos={photos}', f'--out={tmp_path}/out', option])
            assert sentence in capsys.readouterr().err

    def test_a_place_that_another_command_writes_to(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        hold = f'from experiments.folder_lock import *; lock = FolderLock(Path({str(tmp_path / "out_run")!r})); '
        (tmp_path / 'out_run').mkdir()
        waits = [sys.executable, '-c', f'{hold} print(flush=True); input()']
        with subprocess.Popen(waits, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None and other.stdout.readline()
            self.check_refused(
                capsys, draw_photos(tmp_path / 'photos'), tmp_path / 'out', 'out_run is in use by process'
            )
            other.kill()
