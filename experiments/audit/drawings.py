"""Pictures of a page: thumbnails of pairs, and the histogram of similarities."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw

from callbacks.mismatches import Mismatches
from callbacks.plots import similarity_histogram
from datamodules.pictures.fine_detail import fine_detail, salient_places, window_sides
from experiments.audit.certainty import MAX_P
from experiments.audit.findings import Findings
from experiments.self_contained_page import data_uri, figure_uri

SIDE = 64  # of a thumbnail in pixels
FRAME = '#d55e00'
QUALITY = 85  # of JPEG, with full resolution of color, or a small patch would be smeared


def thumbnail(picture: np.ndarray, is_framed: bool = False) -> str:
    """A stored picture as part of a page.

    Args:
        picture: uint8 (3, h, h).
        is_framed: Whether to draw a frame around the window that the score ``detail`` compares.
    """
    image = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
    scale = SIDE / image.width
    image = image.resize((SIDE, SIDE), Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    if is_framed:
        side, _ = window_sides(picture.shape[-1])
        (top,), (left,) = salient_places(fine_detail(picture[None]), side)
        corners = [scale * left - 1, scale * top - 1, scale * (left + side), scale * (top + side)]
        ImageDraw.Draw(image).rectangle([float(corner) for corner in corners], outline=FRAME)
    file = io.BytesIO()
    image.save(file, 'JPEG', quality=QUALITY, subsampling=0, optimize=True)
    return data_uri(file.getvalue(), 'jpeg')


def histogram(findings: Findings) -> str:
    """Similarities of pairs and of shuffled pairs with the fitted mixture, as part of a page."""
    similarity, mixture = findings.scores.similarity, findings.mixture
    parameters = mixture.parameters() if mixture.state == 'fitted' else None
    cut = np.quantile(findings.shuffled, 1 - MAX_P) if len(findings.shuffled) else np.inf
    null = Mismatches(findings.shuffled).histogram(similarity, float(cut))
    figure = similarity_histogram(similarity, {}, parameters, 'Similarity of picture and caption', null)
    return figure_uri(figure, dpi=100)
