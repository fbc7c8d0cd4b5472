from __future__ import annotations

from pathlib import Path

import pytest

from tests.experiments.tool_runs import checkpoint, quick, refusal, run_tool

__all__ = ['quick']  # a fixture


def test_writes_a_model_and_says_how_to_open_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / 'model'
    run_tool(tmp_path, 'export_model', f'--ckpt_path={checkpoint(tmp_path)}', f'--out={out}')
    assert f"create_model_and_transforms('local-dir:{out}')" in capsys.readouterr().out
    assert (out / 'README.md').read_text().startswith('---\nlibrary_name: open_clip\n')


def test_refuses_what_exists_and_weights_that_are_random(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'file').touch()
    taken = refusal(capsys, tmp_path, 'export_model', f'--out={tmp_path}', f'--ckpt_path={checkpoint(tmp_path)}')
    assert taken == f"out='{tmp_path}' already exists and is not empty: name another one."
    random = refusal(capsys, tmp_path, 'export_model', f'--out={tmp_path / "new"}')
    assert random.startswith('random weights tell nothing: give --ckpt_path') and not (tmp_path / 'new').exists()
