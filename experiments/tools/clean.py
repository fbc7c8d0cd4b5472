"""``clipward clean``."""

from __future__ import annotations

from pathlib import Path

from datamodules.cleaned import RECORD, Form, check_form, write_cleaned
from datamodules.files.writers import require_empty
from datamodules.pairs import PairsDataModule
from experiments.tools.prepare import prepare_data_to_score
from lightning_modules.clip import CLIP


def clean(model: CLIP, datamodule: PairsDataModule, folder: str, form: Form = 'parquet') -> None:
    """Write the pairs that data.filters keep, for any trainer, and why each of the others is left out.

    Args:
        model: The pairs are prepared for its image size and context length.
        datamodule: The pairs, with their filters, such as SuspicionFilter, DecisionsFilter or LedgerFilter.
        folder: Folder to write to; must be empty or not exist.
        form: ``npy``, a subset file of DataComp; ``parquet``, a list of keys and captions; ``csv``, a table that
            open_clip reads; or ``webdataset``, shards with the pictures' files as they are.
    """
    target = require_empty(Path(folder))
    if not datamodule.filters:
        print('data.filters drop no pair: name some, or only unreadable pictures are left out.', flush=True)
    check_form(datamodule, form)  # before hours of decoding
    data = prepare_data_to_score(model, datamodule)
    kept = write_cleaned(data, target, form)
    print(f'{kept:,} of {len(data.table):,} pairs in {folder}; {RECORD} says why each of the others is left out.')
