"""``clipward protect``."""

from __future__ import annotations

from pathlib import Path

from callbacks.figure_files import save_figure
from callbacks.protection_sheet import protection_sheet, sample_protected_pairs
from datamodules.files.writers import require_empty
from datamodules.pairs import PairsDataModule
from datamodules.pictures.noise_store import NoiseStore
from datamodules.protection import protect_pairs
from datamodules.publish import publish
from datamodules.usage_error import UsageError, check_number
from experiments.tools.prepare import prepare_data_for
from lightning_modules.clip import CLIP
from lightning_modules.unlearnable import MEM


def protect(
    model: CLIP,
    datamodule: PairsDataModule,
    epochs: int,
    store: str,
    out: str,
    heldout: bool = False,
    share: float = 1.0,
) -> None:
    """Write the pairs that a run of MEM, EM or UAP has protected as pictures and captions for publication.

    Args:
        model: That of the run, named by the run's config.yaml.
        datamodule: The clean pairs, which stay as they are.
        epochs: Rounds of the run.
        store: Folder of noise and triggers that the run has left.
        out: Folder to write to; must be empty or not exist. Some of its pictures are drawn beside the clean ones in
            <out>_sheet.png, which is not for publication.
        heldout: Copy the held-out pairs too, which are not protected.
        share: Share of the pictures to protect, in (0, 1]; the others are written as they are. Drawn by the seed of the
            run.
    """
    if not isinstance(model, MEM):
        raise UsageError(f'{type(model).__name__} protects no pairs: give the config.yaml of a run of MEM, EM or UAP.')
    target = require_empty(Path(out).resolve(), 'out')
    check_number('share', share, '(0, 1]')
    NoiseStore.open(Path(store)).check_whole(epochs)  # before hours of decoding
    protection = protect_pairs(prepare_data_for(model, datamodule), model.settings)
    protection.open(Path(store))
    sheet = target.with_name(f'{target.name}_sheet.png')
    # Before the folder, which must not exist when a command that was killed is given again.
    save_figure(protection_sheet(sample_protected_pairs(protection, share=share)), sheet, dpi=150)
    summary = publish(protection, target, heldout, share)
    unchanged, left_out = summary['pictures_unchanged'], summary['pairs_left_out']
    print(
        f'{summary["pairs"]:,} pairs with {summary["pictures"]:,} pictures in {out}: '
        + (f'{unchanged:,} pictures are not changed, ' if unchanged else '')
        + (f'{left_out:,} pairs are left out, ' if left_out else '')
        + f'noise of at most {summary["max_noise"]} levels of 255, '
        f'{summary["captions_read_back"]:,} captions read as in the run.\n'
        f'{sheet} shows some beside the clean ones: look at it, and keep it to yourself.',
        flush=True,
    )
