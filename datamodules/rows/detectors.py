"""Detectors of poisoned pairs by name: from embeddings to a score of each pair, higher for more suspicious ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.rows import density, outliers
from datamodules.rows.embeddings import Points, Rows, distinct
from datamodules.rows.neighbors import Nearest, nearest
from datamodules.rows.subsets import random_parts
from datamodules.usage_error import UsageError

Scores: TypeAlias = NDArray[np.float64]
ByDensity = Literal['dao', 'slof', 'k_distance', 'lof', 'deep_knn']
ByGroup = Literal['spectral_signatures', 'activation_clustering', 'isolation_forest']
DetectorName: TypeAlias = ByDensity | ByGroup
DETECTORS: tuple[DetectorName, ...] = (*get_args(ByDensity), *get_args(ByGroup))
Modality = Literal['image', 'text', 'pair']
_CAPTION_BLOCK = 1024  # pairs whose neighbors' captions are read at once; 34 MB for 16 neighbors in 512 dimensions
_OF_GROUP: dict[str, Callable[[Points], Scores]] = {
    'spectral_signatures': outliers.spectral_signatures,
    'activation_clustering': outliers.activation_clustering,
    'isolation_forest': outliers.isolation_forest,
}


@dataclass(frozen=True)
class Detector:
    """A detector with its settings.

    Args:
        name: ``dao``, ``slof``, ``k_distance``, ``lof`` and ``deep_knn`` look at the nearest neighbors of a pair;
            ``spectral_signatures``, ``activation_clustering`` and ``isolation_forest`` at a group of pairs.
        modality: What neighbors and groups are made of: embeddings of pictures, of captions, or of both side by side.
        neighbors: Number of neighbors (Huang et al.: 16).
        dimension_neighbors: Number of neighbors that ``dao`` estimates dimensions from (Huang et al.: 64).
        batch: Compare pairs only with those of a random batch of at least this many (Huang et al. release 1,024 or
            2,048). ``None`` compares each with all. A trigger's pictures are neighbors of each other in the whole set,
            but alone in a batch.
        groups: Number of groups of captions that take the place of classes in the second kind of detectors.
        device: Where neighbors are searched, such as ``cuda``.
    """

    name: DetectorName = 'dao'
    modality: Modality = 'image'
    neighbors: int = 16
    dimension_neighbors: int = 64
    batch: int | None = None
    groups: int = 1
    device: str = 'cpu'

    def __post_init__(self) -> None:
        if self.name not in DETECTORS:
            raise UsageError(f'detector must be one of {", ".join(DETECTORS)}, got {self.name!r}.')
        if self.modality not in get_args(Modality):
            raise UsageError(f'modality must be image, text or pair, got {self.modality!r}.')
        for argument in ('neighbors', 'dimension_neighbors', 'groups'):
            if getattr(self, argument) < 1:
                raise UsageError(f'{argument} must be at least 1, got {getattr(self, argument)}.')
        if self.batch is not None and self.batch <= max(1, self.needed):
            raise UsageError(f'batch must be above {max(1, self.needed)}, the neighbors of a pair, got {self.batch}.')
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise UsageError(f'device={self.device!r} is not available here: give cpu.') from error

    @property
    def needed(self) -> int:
        """Neighbors that a pair must have; 0 for detectors without neighbors."""
        if self.name not in get_args(ByDensity):
            return 0
        return max(self.neighbors, self.dimension_neighbors) if self.name == 'dao' else self.neighbors

    def check_count(self, count: int, where: str = 'the set') -> None:
        """Refuses too few points to have as many neighbors.

        Args:
            count: Number of different points.
            where: What holds them, for the message.

        Raises:
            UsageError: If they are too few.
        """
        if count <= self.needed:
            argument = 'neighbors' if self.needed == self.neighbors else 'dimension_neighbors'
            raise UsageError(
                f'{argument}={self.needed} is too many: {where} has {count:,} different embeddings, so give fewer.'
            )

    def suspicion(self, image: np.ndarray, text: np.ndarray) -> NDArray[np.float32]:
        """Scores pairs by their embeddings.

        Args:
            image: Embeddings of the pictures, (N, D), NaN for pairs that were not embedded.
            text: Embeddings of the captions, (N, D).

        Returns:
            A score of each pair, higher for more suspicious ones, (N,); NaN for pairs that were not embedded. Pairs
            with the same embedding have the same score in ``dao``, ``slof``, ``k_distance`` and ``lof``.

        Raises:
            UsageError: If there are too few different embeddings.
        """
        rows = np.flatnonzero(~np.isnan(image[:, 0]))
        if not len(rows):
            raise UsageError('no pair has an embedding: write them again with predict.')
        captions = Points([text], rows)
        points = {'image': Points([image], rows), 'text': captions, 'pair': Points([image, text], rows)}[self.modality]
        score = np.full(len(image), np.nan, np.float32)
        for part in self._parts(captions):
            score[rows[part]] = self._score(points.take(part), captions.take(part))
        return score

    def _parts(self, captions: Points) -> list[Rows]:
        """Points that are compared with each other."""
        count = len(captions)
        parts = random_parts(count, self.batch)
        if self.needed or self.groups == 1:
            return parts
        if self.groups > count:
            raise UsageError(f'groups={self.groups} is more than the {count:,} embedded pairs: give fewer.')
        group = outliers.caption_groups(captions, self.groups)
        return [part[group[part] == number] for part in parts for number in np.unique(group[part])]

    def _score(self, points: Points, captions: Points) -> Scores:
        if self.name in _OF_GROUP:
            return _OF_GROUP[self.name](points)
        chosen, copies_of = distinct(points)
        self.check_count(len(chosen), 'the set' if self.batch is None else 'a batch')
        found = self._neighborhoods(points.take(chosen))
        if self.name == 'deep_knn':
            return _disagreement(captions, chosen, copies_of, found.nearest.neighbor)
        return np.asarray(self._sparsity(found)[copies_of])

    def _sparsity(self, found: _Neighborhoods) -> Scores:
        distance, index = found.nearest
        match self.name:
            case 'dao':
                return density.dao(distance, index, found.dimension)
            case 'slof':
                return density.slof(distance, index)
            case 'lof':
                return density.lof(distance, index)
            case _:
                return density.k_distance(distance)

    def _neighborhoods(self, points: Points) -> _Neighborhoods:
        """Searches all neighbors, and keeps those of density; the many that give a dimension would fill the memory."""
        distance = np.empty((len(points), self.neighbors), np.float32)
        index = np.empty((len(points), self.neighbors), np.int32)
        dimension = np.full(len(points), np.nan, np.float32)
        for block, found in nearest(points, self.needed, device=self.device):
            distance[block], index[block] = (part[:, : self.neighbors] for part in found)
            if self.name == 'dao':
                near = found.distance[:, : self.dimension_neighbors]
                dimension[block] = density.intrinsic_dimension(near, points.width)
        return _Neighborhoods(Nearest(distance, index), dimension)


class _Neighborhoods(NamedTuple):
    """The neighbors of each point, and the intrinsic dimension around it, float32 (P,)."""

    nearest: Nearest
    dimension: NDArray[np.float32]


def _disagreement(captions: Points, chosen: Rows, copies_of: Rows, index: NDArray[np.int32]) -> Scores:
    """:func:`datamodules.rows.density.disagreement` of each pair with neighbors, each one for its copies."""
    score = np.empty(len(captions))
    for start in range(0, len(captions), _CAPTION_BLOCK):
        part = slice(start, start + _CAPTION_BLOCK)
        neighbors = chosen[index[copies_of[part]]]
        others = captions.read(neighbors.ravel()).reshape(*neighbors.shape, captions.width)
        score[part] = density.disagreement(captions.read(part), others)
    return score
