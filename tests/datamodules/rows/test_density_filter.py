from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from datamodules.rows.density_filter import DensityFilter
from datamodules.rows.detectors import Detector
from datamodules.rows.embeddings import IMAGE_FILE, TEXT_FILE
from datamodules.usage_error import UsageError
from tests.datamodules.rows.test_filters import ROWS, rows_kept_by, table, write_ledger

OUTLIERS = [3, 50, 98]
SMALL = {'neighbors': 5, 'dimension_neighbors': 9}


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A ledger with embeddings of which three pictures are unlike all others; the last pair was not scored."""
    generator = np.random.default_rng(0)
    image, text = generator.normal(size=(2, ROWS, 8)) / 3 + np.eye(8)[0] * 2
    image[OUTLIERS] = -image[OUTLIERS] + generator.normal(size=(len(OUTLIERS), 8))
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    image[-1] = text[-1] = np.nan
    np.save(tmp_path / IMAGE_FILE, image.astype(np.float16))
    np.save(tmp_path / TEXT_FILE, text.astype(np.float16))
    similarity = [*(image * text).sum(1)[:-1].tolist(), None]
    return write_ledger(tmp_path / 'ledger.parquet', [*range(ROWS)], similarity, ['risky'] * 99 + ['dropped'])


def test_drops_the_most_suspicious_pairs_and_those_without_a_score(file: str, caplog: pytest.LogCaptureFixture) -> None:
    kept = rows_kept_by(DensityFilter(file, drop_share=0.03, **SMALL))
    assert kept == [row for row in range(ROWS - 1) if row not in OUTLIERS]
    assert 'has no score for 1 of 100 pairs, which are dropped' in caplog.text


def test_scores_are_computed_once(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = rows_kept_by(DensityFilter(file, 'slof', **SMALL))
    Path(file).with_name('slof-0.npy.tmp').write_bytes(b'of a killed process')

    def fail(*embeddings: np.ndarray) -> np.ndarray:
        raise AssertionError('computed again')

    monkeypatch.setattr(Detector, 'suspicion', fail)
    assert rows_kept_by(DensityFilter(file, 'slof', drop_share=0.1, **SMALL)) == first
    with pytest.raises(AssertionError, match='computed again'):
        rows_kept_by(DensityFilter(file, 'lof', **SMALL))


def test_pairs_are_found_in_any_order_of_the_table(file: str) -> None:
    rule, order = DensityFilter(file, drop_share=0.03, **SMALL), np.random.default_rng(1).permutation(ROWS)
    assert (rule.drop(table().take(order)) == rule.drop(table())[order]).all()


def test_equal_scores_are_not_ranked_by_row(file: str) -> None:
    image, text = (np.load(Path(file).with_name(name)) for name in (IMAGE_FILE, TEXT_FILE))
    image[:], text[:] = np.eye(8)[0], np.eye(8)[0]
    for name, array in ((IMAGE_FILE, image), (TEXT_FILE, text)):
        np.save(Path(file).with_name(name), array)
    write_ledger(Path(file), [*range(ROWS)], [1.0] * ROWS, ['safe'] * ROWS)
    kept = rows_kept_by(DensityFilter(file, 'activation_clustering', drop_share=0.5))
    assert len(kept) == 50 and 15 <= sum(row >= 50 for row in kept) <= 35


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        (IMAGE_FILE, None, r"there is no image.npy beside file='.*': write the ledger with predict and --callbacks"),
        (TEXT_FILE, b'\x93NUMPY', "text.npy' cannot be read as embeddings"),
        (TEXT_FILE, np.zeros(3), "text.npy' holds no embeddings"),
        (TEXT_FILE, np.zeros((ROWS, 8), np.float16), "beside file='.*' are not the embeddings of its pairs"),
        (IMAGE_FILE, np.zeros((ROWS + 1, 8), np.float16), "beside file='.*' are not the embeddings of its pairs"),
    ],
)
def test_refuses_embeddings_that_are_missing_or_of_other_pairs(
    file: str, name: str, content: Any, message: str
) -> None:
    path = Path(file).with_name(name)
    if isinstance(content, np.ndarray):
        np.save(path, content)
    elif content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=f'^data.filters: .*{message}'):
        rows_kept_by(DensityFilter(file, **SMALL))


def test_refuses_a_ledger_of_other_pairs(file: str) -> None:
    lines = pq.read_table(file)
    pq.write_table(lines.set_column(0, 'key', [[f'other {row}' for row in range(ROWS)]]), file)
    with pytest.raises(UsageError, match='has none of these pairs: give a ledger of this data'):
        rows_kept_by(DensityFilter(file, **SMALL))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'drop_share': 1.0}, r'data.filters: drop_share must lie in \(0, 1\), got 1.0'),
        ({'detector': 'pca'}, 'data.filters: detector must be one of dao, slof'),
        ({'neighbors': 99}, 'data.filters: neighbors=99 is too many: the set has 99 different embeddings'),
    ],
)
def test_refuses_settings_that_cannot_work(file: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rows_kept_by(DensityFilter(file, **arguments))
