"""WebDataset tar shards as a table of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from datamodules.files.byte_counts import parse_bytes
from datamodules.files.reading import column
from datamodules.files.remote_addresses import check_addresses
from datamodules.files.remote_shards import CopyRules, check_copies, open_shards
from datamodules.files.shard_index import MetadataKeys, index_shards
from datamodules.files.shards import ShardFolder
from datamodules.pairs import PairsDataModule
from datamodules.pictures.images import TarImages
from datamodules.rows.table import PairTable
from datamodules.text.labels import number_labels
from datamodules.usage_error import UsageError


class WebDatasetPairs(PairsDataModule):
    """Pairs in WebDataset tar shards: members ``<key>.jpg`` with ``<key>.txt``, or ``<key>.json`` with ``caption``.

    The shards are read once; the place of every picture goes into an index in ``cache_dir``. So pairs have row
    numbers and are drawn at random like those of any other data set. Rows are in the order of shards and keys, with
    numbers in names by their value (``9.tar`` before ``10.tar``), whatever the order of the members in a shard.

    Args:
        shards: Uncompressed tar files: a folder, a pattern such as ``cc3m-{00000..00331}.tar`` or ``cc3m-*.tar``, or
            a list of these; or addresses such as ``s3://bucket/cc3m-{00000..00331}.tar``, which are copied to
            ``cache_dir``. A sample is an image ``<key>.jpg`` (or png, webp, bmp, gif, tiff) and a caption in
            ``<key>.txt``, or under ``caption`` in ``<key>.json``.
        validation: Tar files of held-out pairs, given in the same way. By default nothing is held out.
        captions_from: Key in ``<key>.json`` under which the caption of a pair stands, such as ``alt_text``. By default
            captions come from ``<key>.txt`` and, where there is none, from ``caption`` in ``<key>.json``.
        labels_from: Key in ``<key>.json`` under which the class of a pair stands, as a name or as an index into
            ``class_names``; at least one training pair must have it. By default pairs have no class.
        cache_limit: Most bytes that copies of remote shards may take in ``cache_dir``, such as ``200GB``. If the shards
            take more, each is copied when it is needed and the oldest copies make room, which needs ``cache: memmap``.
            By default all are copied.
        **kwargs: Arguments of :class:`PairsDataModule`.
    """

    def __init__(
        self,
        shards: str | list[str],
        validation: str | list[str] | None = None,
        captions_from: str | None = None,
        labels_from: str | None = None,
        cache_limit: int | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_addresses(shards, 'data.shards')
        check_addresses(validation, 'data.validation')
        self.shards, self.validation = shards, validation
        self.captions_from, self.labels_from = captions_from, labels_from
        self.cache_limit = parse_bytes(cache_limit, 'data.cache_limit')

    def prepare_data(self) -> None:
        """Asks servers whether their shards have changed, then works like that of :class:`PairsDataModule`."""
        check_copies(self.shards, 'data.shards', self.cache_dir)
        check_copies(self.validation, 'data.validation', self.cache_dir)
        super().prepare_data()

    def load_table(self) -> PairTable:
        """Reads the training pairs, in the order of shards and keys.

        Raises:
            UsageError: If no pair has a value under ``labels_from``.
        """
        rules = CopyRules(self.cache_dir, self.cache_limit, at_random=self.cache == 'none')
        return self._read(self.shards, 'data.shards', rules)

    def load_heldout(self) -> PairTable | None:
        """Reads the held-out pairs, if ``validation`` names any."""
        if self.validation is None:
            return None
        return self._read(self.validation, 'data.validation', CopyRules(self.cache_dir, self.cache_limit))

    def _read(self, patterns: str | list[str], argument: str, rules: CopyRules) -> PairTable:
        shards, source = open_shards(patterns, argument, rules), f'{argument}={patterns!r}'
        index = index_shards(shards, self.cache_dir, source, MetadataKeys(self.captions_from, self.labels_from))
        if self.labels_from is None:
            return shard_table(index, shards)
        if argument == 'data.shards' and index['label'].null_count == len(index):  # held-out pairs may have no class
            raise UsageError(
                f'data.labels_from={self.labels_from!r} is not a key with text or a number in any <key>.json of '
                f'{source}: name the key of the class, or leave data.labels_from out.'
            )
        return shard_table(index, shards, *number_labels(index['label'], self.class_names, source))


def shard_table(
    index: pa.Table, shards: ShardFolder, label: np.ndarray | None = None, classes: Sequence[str] = ()
) -> PairTable:
    """Makes the table of indexed shards, in which lists of pairs may name a row by its sample's key or uid too."""
    image, caption = column(index, 'image'), column(index, 'caption')
    keys = {kind: column(index, kind) for kind in ('key', 'uid')}
    return PairTable(image, caption, label, classes, keys, opener=TarImages(shards))
