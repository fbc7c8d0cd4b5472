"""The file of ``clipward rank_images``: images in the order in which attacks should take them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.files.atomic import write_atomically
from datamodules.files.text_tables import read_columns, read_layout
from datamodules.files.writers import open_csv
from datamodules.rows.table import PairTable
from datamodules.usage_error import UsageError

COLUMNS = ('image', 'similarity')


def read_ranking(path: str, table: PairTable, rows: np.ndarray) -> np.ndarray:
    """Selects the rows whose image a file lists, in the order of the file.

    Args:
        path: CSV with a header and a column ``image`` of names of pictures. Other columns are ignored.
        table: Table of the images.
        rows: One row of each image that may be selected, int64.

    Returns:
        Some of ``rows``, int64, each once even if the file lists its image twice.

    Raises:
        UsageError: If there is no such file, or it is malformed.
    """
    if not Path(path).is_file():
        raise UsageError(f'ranking {path!r} does not exist: make it with clipward rank_images and this configuration.')
    file, source = Path(path), f'ranking {path!r}'
    listed = read_columns(file, read_layout(file, source, ','), COLUMNS[:1], source)['image']
    images = table.names().take(pa.array(rows, pa.int64()))
    listed_index = pc.index_in(listed.cast(images.type).unique(), value_set=images)
    return rows[listed_index.drop_null().to_numpy()]


def write_ranking(path: str, images: Sequence[str], similarity: np.ndarray) -> None:
    """Writes a ranking as CSV.

    Args:
        path: Path of the file.
        images: Names of pictures, in order.
        similarity: Similarity that the images are ordered by, kept for the record, (n,).
    """
    with write_atomically(path) as temporary, open_csv(temporary) as lines:
        lines.writerow(COLUMNS)
        lines.writerows((image, f'{value:.6f}') for image, value in zip(images, similarity.tolist(), strict=True))
