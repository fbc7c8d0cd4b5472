"""Reads the small text files that lie beside pictures, such as their captions."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

from datamodules.files.opening import Fault, describe_faults, fault_of, open_file
from datamodules.files.quoting import quote

log = logging.getLogger(__name__)

MAX_TEXT_BYTES = 1 << 20  # a caption with its metadata has a few kilobytes


class TextFiles:
    """Reads text files of up to 1 MiB, and counts those that are there but are not read.

    Args:
        folder: Real path of the folder that files must be in after links are followed; ``None`` for any.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        self.faults: Counter[Fault] = Counter()
        self.first: Path | None = None

    def read(self, path: Path) -> bytes | None:
        """Returns the content of a file, ``None`` if it is missing or is not read."""
        try:
            with open_file(path, MAX_TEXT_BYTES, self.folder) as file:
                return file.read(MAX_TEXT_BYTES)
        except (OSError, ValueError) as error:
            fault = fault_of(error)
        if fault != 'missing':
            self.faults[fault] += 1
            self.first = self.first or path
        return None

    def warn(self, source: str) -> None:
        """Logs how many files were not read, by the reason."""
        if self.faults:
            log.warning(
                '%s: %d text files are not read (%s); first: %s',
                source, self.faults.total(), describe_faults(self.faults), quote(self.first),
            )  # fmt: skip
