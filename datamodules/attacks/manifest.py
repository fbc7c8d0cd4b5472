"""The truth about a poisoned data set: which rows are poisoned, by which attack, and how."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datamodules.attacks.pool import AttackPool, Poison
from datamodules.attacks.triggers import Trigger
from datamodules.files.atomic import write_atomically
from datamodules.usage_error import UsageError

_COLUMNS = pa.schema([
    ('row', pa.int64()),  # of the poisoned table
    ('attack', pa.string()),
    ('target', pa.int32()),
    ('target_class', pa.string()),
    ('origin', pa.string()),
    ('source', pa.int64()),  # row of the image in its table of origin
    ('caption', pa.string()),
    ('trigger', pa.string()),  # class name and parameters as JSON, null if the image is left as it is
    ('hash', pa.string()),
])  # fmt: skip
_MIXTURES = pa.schema([
    *_COLUMNS,
    ('other', pa.int64()),  # row of a second image in the table of origin, null if there is none
    ('share', pa.float64()),  # of the first image in the mixture
])  # fmt: skip
_CLEAN_ROWS = b'clipward.clean_rows'


class Manifest:
    """One line for each poisoned row, for attacks, metrics and figures. A defense that read it would prove nothing.

    Args:
        table: The lines, in the order in which the poisons were made. Columns: row, attack, target, target_class,
            origin, source, caption, trigger and hash; and other and share if any poison mixes two images.
        clean_rows: Number of rows of the clean table. Poisons in later rows were appended, the others replaced a pair.

    Example:
        >>> from datamodules.attacks import AttackPool, Manifest, Poison
        >>> from datamodules.rows.table import PairTable
        >>> table = PairTable(['0.jpg', '1.jpg'], ['a boat', 'a cat'], opener=None)  # no picture is opened
        >>> pool = AttackPool(table, None, classes=('boat', 'cat'))
        >>> poisons = [Poison(source=1, origin='train', target=0, caption='a boat')]
        >>> manifest = Manifest.of({'badnet': poisons}, {'badnet': None}, pool)
        >>> manifest.attacks, manifest.rows('badnet')
        (('badnet',), array([2]))
    """

    def __init__(self, table: pa.Table, clean_rows: int) -> None:
        self.table, self.clean_rows = table, clean_rows

    def __len__(self) -> int:
        return len(self.table)

    @classmethod
    def of(
        cls, poisons: Mapping[str, Sequence[Poison]], triggers: Mapping[str, Trigger | None], pool: AttackPool
    ) -> Manifest:
        """Assigns a row to every poison: that of the pair it replaces, or the next one after the clean rows.

        Args:
            poisons: Poisons by attack, in the order of the attacks.
            triggers: Trigger by attack, ``None`` if its images are left as they are.
            pool: What the attacks chose from.
        """
        lines, free = [], len(pool.table)
        for attack, chosen in poisons.items():
            trigger = triggers.get(attack) if chosen else None  # without poisons its file may be missing
            described = None if trigger is None else trigger.describe()
            for poison in chosen:
                appended = poison.replaces < 0
                line = {
                    'row': free if appended else poison.replaces,
                    'attack': attack,
                    'target': poison.target,
                    'target_class': pool.classes[poison.target],
                    'origin': poison.origin,
                    'source': poison.source,
                    'caption': poison.caption,
                    'trigger': described,
                }
                if poison.other >= 0:
                    line |= {'other': poison.other, 'share': poison.share}
                lines.append({**line, 'hash': _hash_line(line)})
                free += appended
        columns = _MIXTURES if any('other' in line for line in lines) else _COLUMNS
        return cls(pa.Table.from_pylist(lines, columns), len(pool.table))

    @property
    def attacks(self) -> tuple[str, ...]:
        """Names of the attacks that poisoned at least one row, in the order in which they ran."""
        return tuple(pc.unique(self.table['attack']).to_pylist())

    @property
    def digest(self) -> str:
        """Hash of the content, equal for equal poisons (16 hexadecimal digits)."""
        return hashlib.sha256(''.join(self.table['hash'].to_pylist()).encode()).hexdigest()[:16]

    def of_attack(self, attack: str) -> pa.Table:
        """The lines of one attack."""
        return self.table.filter(pc.equal(self.table['attack'], attack))

    def rows(self, attack: str | None = None) -> np.ndarray:
        """Poisoned rows of one attack, or of all, in the order in which they were made, int64."""
        lines = self.table if attack is None else self.of_attack(attack)
        return np.asarray(lines['row'], np.int64)

    def poisons(self, attack: str) -> list[Poison]:
        """The poisons that an attack selected, in its order."""
        return [
            Poison(
                line['source'], line['origin'], line['target'], line['caption'],
                line['row'] if line['row'] < self.clean_rows else -1,
                *(line[key] for key in ('other', 'share') if line.get(key) is not None),
            )
            for line in self.of_attack(attack).to_pylist()
        ]  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Writes a parquet file."""
        with write_atomically(path) as temporary:
            pq.write_table(self.table.replace_schema_metadata({_CLEAN_ROWS: str(self.clean_rows)}), temporary)

    @classmethod
    def load(cls, path: str | Path) -> Manifest:
        """Reads a parquet file that :meth:`save` wrote.

        Raises:
            UsageError: If the file is not a manifest, or a line has been changed since.
        """
        table = pq.read_table(path)
        metadata = table.schema.metadata or {}
        if table.schema not in (_COLUMNS, _MIXTURES) or _CLEAN_ROWS not in metadata:
            raise UsageError(f'{path} is not a manifest of poisons: its columns are {", ".join(table.column_names)}.')
        for line in table.to_pylist():
            if line.pop('hash') != _hash_line(line):
                raise UsageError(f'row {line["row"]} of manifest {path} does not match its hash: restore the file.')
        return cls(table.replace_schema_metadata(None), int(metadata[_CLEAN_ROWS]))


def _hash_line(line: Mapping[str, Any]) -> str:
    """Hash of one line (16 hexadecimal digits); it does not depend on whether other lines are mixtures."""
    content = {key: value for key, value in line.items() if key in _COLUMNS.names or value is not None}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
