from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from callbacks.ledger import read_ledger
from tests.experiments.tool_runs import checkpoint, quick, refusal, run_tool

__all__ = ['quick']  # a fixture

PATCH = '{patch: {class_path: BadNet, init_args: {target: striped star, count: 12, size: 4, pattern: checker}}}'
PAIRS = ['--data.rows=160', f'--data.attacks={PATCH}']


@pytest.fixture(scope='module')
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an audit by a model with random weights, for which a patch is no secret all the same."""
    folder = tmp_path_factory.mktemp('audit')
    run_tool(folder, 'audit', *PAIRS, f'--ckpt_path={checkpoint(folder)}', f'--out={folder}/new/page.html')
    return folder


def test_leaves_a_page_a_ledger_and_embeddings(audited: Path) -> None:
    page = (audited / 'new/page.html').read_text(encoding='utf-8')
    assert 'Audit of 172 pairs' in page and 'surrogate.ckpt' in page
    assert {path.name for path in (audited / 'new/page_scores').iterdir()} == {
        'ledger.parquet',
        'image.npy',
        'text.npy',
    }
    assert not list((audited / 'runs').rglob('version_*'))  # it is no run


def test_the_ledger_holds_all_scores_and_is_one_like_any_other(audited: Path) -> None:
    file = audited / 'new/page_scores/ledger.parquet'
    lines = pq.read_table(file)
    assert read_ledger(file).num_rows == 172
    scores = ['similarity_score', 'density_score', 'copies_score', 'pattern_score', 'detail_score']
    suspicion = lines['suspicion'].to_numpy()
    assert np.max([lines[name].to_numpy() for name in scores], 0) == pytest.approx(suspicion)
    for line in lines.select([*scores, 'suspicion', 'reason']).to_pylist()[::20]:
        assert line[f'{line["reason"]}_score'] == line['suspicion']


def test_a_ledger_with_embeddings_needs_no_model(audited: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = audited / 'new/page_scores/ledger.parquet'
    before = pq.read_table(given)
    run_tool(audited, 'audit', *PAIRS, f'--ledger={given}', f'--out={audited}/again.html', '--rows=5')
    assert 'of 172 pairs stand out' in capsys.readouterr().out
    assert (audited / 'again.html').read_text(encoding='utf-8').count('class="pair"') == 5
    again = pq.read_table(audited / 'again_scores/ledger.parquet')
    assert again['suspicion'].to_numpy() == pytest.approx(before['suspicion'].to_numpy())


def test_takes_a_file_of_open_clip_s_weights(audited: Path) -> None:
    weights = torch.load(audited / 'surrogate.ckpt', weights_only=True)['state_dict']
    towers = {name.removeprefix('towers.'): each for name, each in weights.items() if name.startswith('towers.')}
    torch.save(towers, audited / 'weights.pt')
    run_tool(audited, 'audit', *PAIRS, f'--model.pretrained={audited}/weights.pt', f'--out={audited}/pretrained.html')
    by_checkpoint, by_weights = (
        pq.read_table(audited / folder / 'ledger.parquet')['similarity'].to_numpy()
        for folder in ('new/page_scores', 'pretrained_scores')
    )
    assert by_weights == pytest.approx(by_checkpoint, abs=1e-5)


def test_decisions_on_the_page_and_its_ledger_are_filters(
    audited: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    page = (audited / 'new/page.html').read_text(encoding='utf-8')
    fingerprint = page.partition('data-fingerprint="')[2].partition('"')[0]
    head = {'format': 'clipward.decisions', 'version': 1, 'fingerprint': fingerprint}
    (audited / 'decisions.json').write_text(json.dumps({**head, 'keep': [0], 'drop': [5, 171], 'unsure': []}))
    files = {
        'DecisionsFilter': audited / 'decisions.json',
        'SuspicionFilter': audited / 'new/page_scores/ledger.parquet',
    }
    rules = {name: {'class_path': name, 'init_args': {'file': str(file)}} for name, file in files.items()}
    filters = f'--data.filters={json.dumps(rules)}'
    run_tool(audited, 'export', *PAIRS, filters, f'--folder={audited}/out')
    assert 'data.filters.DecisionsFilter drops 2 of 172 pairs' in caplog.text
    assert 'data.filters.SuspicionFilter drops' in caplog.text
    refused = refusal(capsys, audited, 'export', '--data.rows=150', filters, f'--folder={audited}/other')
    assert 'holds decisions on another data set' in refused


class TestRefusals:
    def test_what_cannot_be_written_or_shown(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        weights = f'--ckpt_path={checkpoint(tmp_path)}'
        assert "out='page' must end in .html" in refusal(capsys, tmp_path, 'audit', weights, '--out=page')
        out = f'--out={tmp_path}/page.html'
        assert 'rows must lie in [1, 400]' in refusal(capsys, tmp_path, 'audit', weights, out, '--rows=401')
        assert 'compared must be at least 100' in refusal(capsys, tmp_path, 'audit', weights, out, '--compared=5')
        (tmp_path / 'file').touch()
        there = f'--out={tmp_path}/file/page.html'
        assert 'cannot be created as a folder' in refusal(capsys, tmp_path, 'audit', weights, there)
        assert not (tmp_path / 'cache').exists()

    def test_a_model_with_random_weights(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        refused = refusal(capsys, tmp_path, 'audit', f'--out={tmp_path}/page.html')
        assert 'random weights tell nothing: give --ckpt_path' in refused
        assert not (tmp_path / 'page_scores').exists()

    def test_a_ledger_that_is_missing_or_without_embeddings(
        self, audited: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out, given = f'--out={tmp_path}/page.html', audited / 'new/page_scores/ledger.parquet'
        without = tmp_path / 'ledger.parquet'
        without.write_bytes(given.read_bytes())
        assert 'there is no image.npy beside ledger=' in refusal(
            capsys, tmp_path, 'audit', *PAIRS, out, f'--ledger={without}'
        )
        assert 'there is no ledger=' in refusal(capsys, tmp_path, 'audit', *PAIRS, out, '--ledger=missing.parquet')
