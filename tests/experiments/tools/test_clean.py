from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from experiments import cli
from tests.experiments.tool_runs import SIDE, quick
from tests.helpers.natural import natural_pictures
from tests.helpers.tiny import tiny_architecture

__all__ = ['quick']  # a fixture


@pytest.fixture
def pairs(tmp_path: Path) -> list[str]:
    """Options of six pairs in a CSV, of which a filter drops two."""
    for row, picture in enumerate(natural_pictures(6, SIDE, seed=0)):
        Image.fromarray(picture.transpose(1, 2, 0)).save(tmp_path / f'{row}.png')
    (tmp_path / 'pairs.csv').write_text('image,caption\n' + ''.join(f'{row}.png,pair {row}\n' for row in range(6)))
    (tmp_path / 'drop.txt').write_text('1.png\n4.png\n')
    listed = {'class_path': 'KeyList', 'init_args': {'file': f'{tmp_path}/drop.txt', 'listed': 'drop'}}
    model = ['--model=CLIP', f'--model.architecture={tiny_architecture(tmp_path, image_size=SIDE)}']
    data = ['--data=CSVPairs', f'--data.train={tmp_path}/pairs.csv', f'--data.cache_dir={tmp_path}/cache']
    filters = [f'--data.filters={json.dumps({"listed": listed})}', f'--folder={tmp_path}/out']
    return ['clean', *model, *data, *filters, '--trainer.accelerator=cpu', '--trainer.callbacks=null']


def test_writes_what_the_filters_keep_and_the_reasons(
    tmp_path: Path, pairs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(pairs)
    assert pq.read_table(tmp_path / 'out/kept.parquet')['key'].to_pylist() == ['0.png', '2.png', '3.png', '5.png']
    assert (tmp_path / 'out/left_out.csv').read_text().splitlines()[1] == '1,1.png,pair 1,listed (KeyList)'
    said = capsys.readouterr().out
    assert f'4 of 6 pairs in {tmp_path}/out; left_out.csv says why each of the others is left out.' in said


def test_a_form_that_these_pairs_cannot_have_is_refused_before_any_picture_is_read(
    tmp_path: Path, pairs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main([*pairs, '--form=npy'])
    assert 'error: form=npy lists uids, which 6 of 6 pairs do not have' in capsys.readouterr().err
    assert not list(tmp_path.glob('cache/pictures-*'))
