"""``clipward explain``."""

from __future__ import annotations

from pathlib import Path

import torch

from callbacks.figure_files import save_figure
from datamodules.files.atomic import make_folder
from datamodules.pairs import PairsDataModule
from datamodules.usage_error import UsageError, check_number
from experiments.explanation.examples import PICTURES, draw_examples, words_in
from experiments.explanation.figures import attention_figure, map_figure
from experiments.explanation.integrated_gradients import MAX_GAP, check_captions
from experiments.explanation.view import look
from experiments.surrogates.surrogate import load_trained
from lightning_modules.clip import CLIP
from lightning_modules.weights import read_checkpoint


def explain(
    model: CLIP,
    datamodule: PairsDataModule,
    device: torch.device,
    models: dict[str, str],
    out: str,
    pictures: int = 4,
    seed: int = 0,
) -> None:
    """Draw what trained models look at in held-out pairs, side by side: Grad-CAM, integrated gradients and t-SNE.

    Args:
        model: The architecture of all models. Without --config, model and data are those of the run that the first
            checkpoint lies in.
        datamodule: Holds out the pictures, ten at least.
        device: Where the models run.
        models: Name in the figures and checkpoint of each model, as in --models.clean=a.ckpt --models.MEM=b.ckpt.
        out: Folder to write attention.png and tsne.png to.
        pictures: Pictures in attention.png, at most ten. In tsne.png there are ten, with up to five captions of each.
        seed: Seed that draws the pictures.
    """
    check_number('pictures', pictures, f'[1, {PICTURES}]')
    if not models:
        raise UsageError('which models? Name their checkpoints, as in --models.clean=a.ckpt --models.MEM=b.ckpt.')
    check_captions(model)
    for name, path in models.items():
        read_checkpoint(path, f'models.{name}')  # all of them, before anything is computed
    datamodule.adapt_to(model)
    examples = draw_examples(datamodule, seed)
    make_folder(Path(out), 'name another folder as out')  # before minutes of gradients
    views = {name: look(load_trained(model, path, device), examples, pictures) for name, path in models.items()}
    words = [words_in(examples.tokens[number]) for number in examples.first_caption(pictures)]
    save_figure(attention_figure(examples.picture[:pictures], words, views), Path(out, 'attention.png'), dpi=150)
    save_figure(map_figure(examples.owner, views), Path(out, 'tsne.png'), dpi=150)
    for name, view in views.items():
        worst = float(view.gap.max())
        doubt = f', more than {MAX_GAP:.0%}: do not trust the words' if worst > MAX_GAP else ''
        print(f'{name}: mean cosine {view.cosine.mean():.3f}; words add up to within {worst:.2%}{doubt}.', flush=True)
    print(f'figures: {Path(out, "attention.png")}, {Path(out, "tsne.png")}', flush=True)
