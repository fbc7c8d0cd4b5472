from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from lightning_modules.clip import CLIP
from tests.experiments.tool_runs import SIDE, checkpoint, quick, refusal, run_tool
from tests.helpers.tiny import tiny_architecture

__all__ = ['quick']


def test_draws_several_models_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip('captum')
    first, second = checkpoint(tmp_path), str(tmp_path / 'other.ckpt')
    torch.manual_seed(4)
    other = CLIP(tiny_architecture(tmp_path, 'surrogate', image_size=SIDE))
    torch.save({'state_dict': other.state_dict()}, second)
    widths = []
    for models in ([('clean', first)], [('clean', first), ('MEM-3', second), ('EM', first)]):
        options = [f'--models.{name}={path}' for name, path in models]
        run_tool(tmp_path, 'explain', *options, f'--out={tmp_path}/out', '--pictures=2')
        with Image.open(tmp_path / 'out/tsne.png') as drawn, Image.open(tmp_path / 'out/attention.png') as pairs:
            assert pairs.height > 500
            widths.append(drawn.width)
    assert widths[1] > 1.5 * widths[0]
    lines = capsys.readouterr().out.splitlines()
    told = {line.partition(':')[0]: line for line in lines if 'words add up' in line}
    assert [*told] == ['clean', 'MEM-3', 'EM']
    assert told['clean'].split(':')[1] == told['EM'].split(':')[1] != told['MEM-3'].split(':')[1]
    assert re.search(r'mean cosine -?0\.\d{3}; words add up to within 0\.\d\d%\.$', told['clean'])


def test_refuses_a_file_as_folder_before_it_explains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip('captum')
    monkeypatch.delattr('experiments.tools.explain.look')
    given = [f'--models.a={checkpoint(tmp_path)}', f'--out={tmp_path}/a.txt']
    (tmp_path / 'a.txt').touch()
    assert 'name another folder as out' in refusal(capsys, tmp_path, 'explain', *given)


@pytest.mark.parametrize(
    ('changed', 'sentence'),
    [
        (['--models.clean=gone.ckpt'], "models.clean='gone.ckpt' does not exist"),
        (['--models={}'], 'which models? Name their checkpoints'),
        (['--pictures=11'], 'pictures'),
    ],
)
def test_refuses(changed: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip('captum')
    (tmp_path / 'a.ckpt').touch()
    given = [f'--out={tmp_path}/out', *([] if 'models' in changed[0] else [f'--models.a={tmp_path}/a.ckpt'])]
    assert sentence in refusal(capsys, tmp_path, 'explain', *given, *changed)
    assert not (tmp_path / 'out').exists()
