"""Parts of a large matrix that are computed one after the other, so that the whole is never in memory."""

from __future__ import annotations

from datamodules.usage_error import check_number

WHOLE = 8192**2  # entries up to which a matrix is one tile, 256 MiB in float32
TILE = 2**24  # entries of a tile of a larger one, 64 MiB


def tiles(rows: int, columns: int, tile_size: int | None = None) -> list[slice]:
    """Divides the rows of a matrix into tiles.

    Args:
        rows: Number of rows.
        columns: Number of columns.
        tile_size: Rows of a tile. By default, a matrix of up to 8,192 x 8,192 entries is one tile, and tiles of a
            larger one have about 2^24 entries.

    Returns:
        The rows of each tile, in order; one empty tile if there are no rows.

    Raises:
        UsageError: If ``tile_size`` is below 1.

    Example:
        >>> tiles(5, 100, tile_size=2)
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
        >>> len(tiles(8_192, 8_192)), len(tiles(16_384, 16_384))
        (1, 16)
    """
    check_number('tile_size', tile_size, '[1, inf)')
    if tile_size is None:
        tile_size = max(1, rows if rows * columns <= WHOLE else TILE // columns)
    return [slice(start, min(start + tile_size, rows)) for start in range(0, max(1, rows), tile_size)]
