"""Figures of what several models look at, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from callbacks.plots import COLORS, MARKERS
from experiments.explanation.view import View

PANEL = 1.9  # inches
ABOUT = (
    'Pictures: brighter where the picture raises its similarity to the caption (Grad-CAM, {0} x {1} cells).\n'
    'Words and parts of words: red raises the similarity to the picture, blue lowers it (integrated gradients).\n'
    'Every map and every row of words is scaled to its own largest value.'
)
ABOUT_MAP = (
    'Held-out pictures and their captions by t-SNE: what the model finds similar lies near each other.\n'
    'A picture and its captions have one color and one shape.'
)


def attention_figure(pictures: np.ndarray, words: Sequence[Sequence[str]], views: Mapping[str, View]) -> Figure:
    """Pictures with the Grad-CAM of each model beside them, and below them what each word adds.

    Args:
        pictures: The pictures of the pairs, uint8 (n, 3, h, h).
        words: The tokens of each caption between start and end, as text.
        views: Model -> what it sees in the pairs.
    """
    below = 0.75 + 0.22 * len(views)
    size = max(7.0, PANEL * (1 + len(views))), 0.8 + (PANEL + 0.3 + below) * len(words)
    figure = Figure(size, layout='constrained')
    grid = next(iter(views.values())).heat.shape[1:]
    figure.suptitle(ABOUT.format(*grid), fontsize=8, x=0.01, horizontalalignment='left')
    parts = figure.subfigures(len(words), squeeze=False)[:, 0]
    for number, (part, caption) in enumerate(zip(parts, words, strict=True)):
        upper, lower = part.subfigures(2, height_ratios=(PANEL + 0.3, below))
        axes = upper.subplots(1, 1 + len(views))
        _draw_picture(axes[0], pictures[number], 'picture')
        for axis, (name, view) in zip(axes[1:], views.items(), strict=True):
            _draw_heat(axis, pictures[number], view.heat[number], f'{name}: cosine {view.cosine[number]:.2f}')
        shares = np.stack([view.token[number, 1 : 1 + len(caption)] for view in views.values()])
        _draw_words(lower.subplots(), caption, shares, [*views])
    return figure


def map_figure(owner: np.ndarray, views: Mapping[str, View]) -> Figure:
    """Pictures and captions as each model places them, with a color and a shape for each picture and its captions.

    Args:
        owner: Picture of each caption, (N,).
        views: Model -> where it places them.
    """
    figure = Figure((max(5.0, 3.3 * len(views)), 4.1), layout='constrained')
    figure.suptitle(ABOUT_MAP, fontsize=8, x=0.01, horizontalalignment='left')
    for axis, (name, view) in zip(figure.subplots(1, len(views), squeeze=False)[0], views.items(), strict=True):
        for picture, place in enumerate(view.picture_place):
            captions = view.caption_place[owner == picture]
            color, marker = COLORS[picture % len(COLORS)], MARKERS[picture % len(MARKERS)]
            axis.plot(*captions.T, marker, color=color, markersize=5, markerfacecolor='none')
            axis.plot(*place, marker, color=color, markersize=9, markeredgecolor='black')
        axis.set_title(name, fontsize=10, parse_math=False)
        axis.set(xticks=[], yticks=[])
    handles = [
        figure.axes[0].plot([], [], 'o', color='0.5', markersize=9, markeredgecolor='black', label='picture')[0],
        figure.axes[0].plot([], [], 'o', color='0.5', markersize=5, markerfacecolor='none', label='its captions')[0],
    ]
    figure.legend(handles=handles, loc='outside lower center', ncols=2, frameon=False, fontsize=8)
    return figure


def _draw_picture(axis: Axes, picture: np.ndarray, title: str) -> None:
    axis.imshow(picture.transpose(1, 2, 0), interpolation='nearest')
    axis.set_title(title, fontsize=8, parse_math=False)
    axis.set(xticks=[], yticks=[])


def _draw_heat(axis: Axes, picture: np.ndarray, heat: np.ndarray, title: str) -> None:
    """Lays the map over the picture in gray, so that all color is heat."""
    side = picture.shape[-1] - 0.5
    _draw_picture(axis, np.broadcast_to(picture.mean(0, keepdims=True), picture.shape).astype(np.uint8), title)
    if (largest := heat.max()) > 0:
        area, style = (-0.5, side, side, -0.5), 'bilinear'
        axis.imshow(heat / largest, cmap='inferno', alpha=0.6, vmin=0, vmax=1, extent=area, interpolation=style)
    else:
        axis.set_xlabel('no cell raises it', fontsize=7)


def _draw_words(axis: Axes, words: Sequence[str], shares: np.ndarray, names: Sequence[str]) -> None:
    """A row of cells for each model, a column for each word.

    Args:
        axis: Where to draw.
        words: The words, W of them.
        shares: What each adds, (models, W).
        names: Names of the models.
    """
    largest = np.abs(shares).max(1, keepdims=True, initial=1e-12)
    axis.pcolormesh(shares / largest, cmap='RdBu_r', vmin=-1, vmax=1, edgecolors='white', linewidth=1)
    axis.invert_yaxis()
    axis.set_yticks(np.arange(len(names)) + 0.5, names, fontsize=7, parse_math=False)
    axis.set_xticks(np.arange(len(words)) + 0.5, words, fontsize=7, rotation=35, ha='right', parse_math=False)
    axis.tick_params(length=0)
