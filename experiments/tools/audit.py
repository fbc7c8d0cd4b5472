"""``clipward audit``."""

from __future__ import annotations

from pathlib import Path

import torch

from callbacks.ledger import FILE, write_ledger
from datamodules.files.atomic import make_folder, write_text
from datamodules.pair_scores import COMPARED
from datamodules.pairs import PairsDataModule
from datamodules.usage_error import UsageError, check_number
from experiments.audit.embedding import embed
from experiments.audit.findings import audited_ledger, find
from experiments.audit.page import audit_page, count_flagged
from experiments.surrogates.surrogate import load_trained
from experiments.tools.prepare import prepare_data_to_score
from lightning_modules.clip import CLIP

MAX_ROWS = 400  # with the largest thumbnails and captions, the page then stays below 5 MB


def audit(
    model: CLIP,
    datamodule: PairsDataModule,
    device: torch.device,
    out: str,
    rows: int = 300,
    compared: int | None = COMPARED,
    ledger: str | None = None,
    ckpt_path: str | None = None,
) -> None:
    """Write a page that shows which pairs look poisoned, and how sure that is.

    Args:
        model: A trained model. With the ledger of an earlier audit, only its sizes matter.
        datamodule: The pairs.
        device: Where the model runs and pictures are compared.
        out: The HTML file to write. The scores of all pairs go into a folder beside it, <name>_scores.
        rows: Most suspects to show, at most 400.
        compared: Pairs, drawn at random, that each one is compared with at least; null for all, which takes a time that
            grows with the square of the set.
        ledger: Ledger of these pairs with embeddings beside it, as an earlier audit has left it, or predict with
            callbacks.ledger.embeddings. By default, the model embeds the pairs.
        ckpt_path: Checkpoint of the model.
    """
    page = Path(out)
    if page.suffix != '.html':
        raise UsageError(f'out={out!r} must end in .html.')
    check_number('rows', rows, f'[1, {MAX_ROWS}]')
    check_number('compared', compared, '[100, inf)')
    if ledger is None:
        model = load_trained(model, ckpt_path, device)
    folder = page.with_name(f'{page.stem}_scores')
    make_folder(folder)  # refused now, not after hours
    if ledger is None:
        source = str(embed(model, datamodule, device, folder))
    else:
        source = ledger
        prepare_data_to_score(model, datamodule)
    findings = find(datamodule, source, compared, str(device))
    write_ledger(folder / FILE, [audited_ledger(findings)])
    weights = ckpt_path or 'as model.pretrained or model.init_from says'
    judge = f'embeddings beside {ledger}' if ledger else f'{type(model).__name__} {model.architecture}, {weights}'
    write_text(page, audit_page(findings, judge, folder / FILE, rows))
    print(
        f'{count_flagged(findings)["all"]:,} of {len(findings.scored):,} pairs stand out: open {page} in a browser.\n'
        f'Scores of all pairs: {folder / FILE}',
        flush=True,
    )
