from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from experiments import cli


def refusal(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    with pytest.raises(SystemExit, match='2'):
        cli.main(['dashboard', *options])
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_writes_a_workspace_without_an_account(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip('wandb_workspaces')
    with pytest.raises(SystemExit, match='0'):
        cli.main(['dashboard', f'--file={tmp_path}/w.json'])
    assert 'panelBankConfig' in json.loads((tmp_path / 'w.json').read_text())['section']
    assert capsys.readouterr().out == f'Workspace: {tmp_path}/w.json\n'


def test_without_an_account_one_sentence_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    def refuse() -> None:
        raise wandb.errors.UsageError('No API key configured. Use `wandb login` to log in.\nmore')

    monkeypatch.setattr('wandb.Api', refuse)
    said = refusal(capsys)
    assert said.startswith('error: the workspace was not made (No API key configured.') and said.endswith('to a file.')


def test_without_the_extra_one_sentence_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, 'wandb_workspaces', None)
    monkeypatch.setitem(sys.modules, 'wandb_workspaces.reports.v2.interface', None)
    assert refusal(capsys, '--file=w.json').endswith('needs wandb-workspaces: pip install "clipward[dashboard]".')


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('--config=safeclip_toy.yaml', 'error: unrecognized arguments: --config=safeclip_toy.yaml'),
        ('--projct=x', 'error: unrecognized option --projct: did you mean --project?'),
    ],
)
def test_a_mistake_is_one_sentence(option: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, option) == message
