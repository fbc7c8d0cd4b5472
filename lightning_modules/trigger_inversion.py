"""Trigger inversion: for each class, what turns pictures of others into it, and whether one class gives way too easily.

A backdoor is a short way to its target: a small trigger takes any picture there, where other classes need more. Neural
Cleanse (Wang et al., 2019) looks for the smallest trigger of each class that succeeds, and takes a class whose trigger
is much smaller than those of the others for the target; DECREE (Feng et al., 2023) and InverTune (2506.12411) carry
that over to CLIP. Here the size of the trigger is given, and compared is how far the best one of that size gets. That
number moves smoothly, so 200 steps from the same start can be compared between classes; a smallest size depends on how
its penalty was tuned for each class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.usage_error import UsageError, check_number
from lightning_modules.adversarial import paste_patch, pixel_gradient

MAX_PICTURES = 128  # of a forward pass; more classes are searched one part after the other
BETAS = (0.9, 0.9)  # of Adam: its steps should not stay short because of the first gradients, which are large
NORMAL = 1.4826  # standard deviation of a normal distribution over its median absolute deviation
DRAWS = 500_000  # normal numbers that the chance of an outlier is counted in

Logits = Callable[[Tensor], Tensor]  # images in [0, 1], (B, 3, h, w), to logits (B, C), each image by itself


class TriggerSearch(ABC):
    """A family of triggers that gradients can move through. Each class has parameters of its own.

    Attributes:
        lr: Learning rate of Adam, for the parameters.
    """

    lr: float

    @abstractmethod
    def start(self, classes: int, side: int, generator: torch.Generator) -> Tensor:
        """Draws the parameters of a trigger for each class, (C, ...), for images of a side in pixels."""

    @abstractmethod
    def stamp(self, images: Tensor, parameters: Tensor, generator: torch.Generator) -> Tensor:
        """Puts on each image the trigger of its own parameters, (B, ...), differentiably: (B, 3, h, w) in [0, 1]."""

    def bound(self, parameters: Tensor) -> None:  # noqa: B027  # most parameters may have any value
        """Moves parameters in place back to where a trigger has its size."""

    @abstractmethod
    def draw(self, parameters: Tensor) -> Tensor:
        """The triggers as pictures in [0, 1], (C, 3, h, w)."""


class RoamingPatch(TriggerSearch):
    """An opaque square that works wherever it is; one that the model knows at a single place mostly does, too.

    Args:
        side: Its side in pixels.
    """

    lr = 0.1  # parameters are logits of the pixels

    def __init__(self, side: int) -> None:
        self.side = side

    def start(self, classes: int, side: int, generator: torch.Generator) -> Tensor:
        return 0.5 * torch.randn(classes, 3, self.side, self.side, generator=generator)

    def stamp(self, images: Tensor, parameters: Tensor, generator: torch.Generator) -> Tensor:
        places = images.shape[-1] - self.side + 1
        corners = torch.randint(places, (1, len(images), 2), generator=generator).to(images.device)
        return paste_patch(images, parameters.sigmoid(), corners)

    def draw(self, parameters: Tensor) -> Tensor:
        return parameters.sigmoid()


class Perturbation(TriggerSearch):
    """A faint pattern that is added to the whole picture.

    Args:
        strength: Its root mean square, for values in [0, 1].
    """

    def __init__(self, strength: float) -> None:
        self.strength = self.lr = strength

    def start(self, classes: int, side: int, generator: torch.Generator) -> Tensor:
        return 0.3 * self.strength * torch.randn(classes, 3, side, side, generator=generator)

    def stamp(self, images: Tensor, parameters: Tensor, generator: torch.Generator) -> Tensor:
        return (images + parameters).clamp(0, 1)

    def bound(self, parameters: Tensor) -> None:
        strength = parameters.square().mean((1, 2, 3), keepdim=True).sqrt()
        parameters.mul_((self.strength / strength).clamp(max=1))

    def draw(self, parameters: Tensor) -> Tensor:
        return 0.5 + 0.5 * parameters / parameters.abs().amax((1, 2, 3), keepdim=True)


class Inversion(NamedTuple):
    """The best trigger of each class, and what it does to pictures that it was not made on.

    Attributes:
        trigger: Parameters of the triggers, (C, ...).
        success: Share of pictures that are taken for the class with its trigger, among those that are not without it,
            in [0, 1], (C,).
        log_odds: Mean logarithm of the odds of the class on these pictures, (C,).
    """

    trigger: Tensor
    success: Tensor
    log_odds: Tensor


def invert(logits: Logits, search: TriggerSearch, images: Tensor, steps: int, batch: int, seed: int = 0) -> Inversion:
    """Looks for a trigger of each class on one half of some clean images, and measures it on the other half.

    Args:
        logits: The classifier, whose weights are frozen.
        search: What triggers may be like.
        images: Clean images in [0, 1], (N, 3, h, h), in random order. Their classes need not be known: each class is
            approached from the images that the classifier takes for another.
        steps: Steps of Adam.
        batch: Images of a step for each class.
        seed: Seed of the start, of the images drawn and of random places.

    Raises:
        UsageError: If one of the halves has no image that is taken for another class, or a number is out of range.
    """
    check_number('steps', steps, '[1, inf)')
    check_number('batch', batch, '[1, inf)')
    predicted, classes = predict_all(logits, images)
    half = len(images) // 2
    _check_halves(predicted[:half], predicted[half:])
    generator = torch.Generator().manual_seed(seed)
    found = [
        _search(logits, search, images[:half], predicted[:half], part, steps, batch, generator)
        for part in torch.arange(classes).split(max(1, MAX_PICTURES // batch))
    ]
    trigger = torch.cat(found)
    effects = [_measure(logits, search, trigger, images[half:], predicted[half:], c, generator) for c in range(classes)]
    success, log_odds = (torch.tensor(column) for column in zip(*effects, strict=True))
    return Inversion(trigger, success, log_odds)


def _check_halves(*halves: Tensor) -> None:
    if any(len(set(predicted.tolist())) < 2 for predicted in halves):
        raise UsageError(
            'inspect needs pictures that the model takes for several classes, in both halves: give more of them, or '
            'others.'
        )


@torch.no_grad()
def predict_all(logits: Logits, images: Tensor) -> tuple[Tensor, int]:
    """The class that each image is taken for, int64 (N,) on the CPU, and the number of classes."""
    parts = [logits(part) for part in images.split(MAX_PICTURES)]
    return torch.cat([part.argmax(1).cpu() for part in parts]), parts[0].shape[1]


def _search(
    logits: Logits,
    search: TriggerSearch,
    images: Tensor,
    predicted: Tensor,
    classes: Tensor,
    steps: int,
    batch: int,
    generator: torch.Generator,
) -> Tensor:
    """Parameters of a trigger for each of some classes, which all take their steps at once."""
    trigger = search.start(len(classes), images.shape[-1], generator).to(images.device).requires_grad_()
    optimizer = torch.optim.Adam([trigger], search.lr, betas=BETAS)
    target = classes.repeat_interleave(batch).to(images.device)
    for rows in _draw_others(predicted, classes, steps, batch, generator):
        stamped = search.stamp(images[rows.to(images.device)], trigger.repeat_interleave(batch, 0), generator)
        loss = F.cross_entropy(logits(stamped), target, reduction='sum') / batch
        trigger.grad = pixel_gradient(loss, trigger)
        optimizer.step()
        search.bound(trigger.data)
    return trigger.detach()


def _draw_others(
    predicted: Tensor, classes: Tensor, steps: int, batch: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Draws for each class images that are taken for another: int64 (C * batch,) at each step."""
    others = (predicted != classes[:, None]).float()
    for _ in range(steps):
        yield torch.multinomial(others, batch, replacement=True, generator=generator).flatten()


@torch.no_grad()
def _measure(
    logits: Logits,
    search: TriggerSearch,
    trigger: Tensor,
    images: Tensor,
    predicted: Tensor,
    target: int,
    generator: torch.Generator,
) -> tuple[float, float]:
    """Success and mean log odds of the trigger of a class."""
    others = images[(predicted != target).to(images.device)]
    stamped = search.stamp(others, trigger[target].expand(len(others), *trigger.shape[1:]), generator)
    answers = torch.cat([logits(part) for part in stamped.split(MAX_PICTURES)]).float()
    own = answers[:, target]
    rest = answers.index_fill(1, torch.tensor([target], device=answers.device), -torch.inf)
    return float((answers.argmax(1) == target).float().mean()), float((own - rest.logsumexp(1)).mean())


# --- outliers ---------------------------------------------------------------------------------------------------------


def robust_z(values: np.ndarray) -> np.ndarray:
    """Distance of each value from the median, in standard deviations as the median absolute deviation tells them.

    Up to half of the values may be outliers without hiding each other. Neural Cleanse calls it the anomaly index.

    Example:
        >>> robust_z(np.array([1.0, 2.0, 3.0, 4.0, 20.0])).round(2).tolist()
        [-1.35, -0.67, 0.0, 0.67, 11.47]
    """
    distance = values - np.median(values)
    return distance / max(NORMAL * float(np.median(np.abs(distance))), np.finfo(np.float32).eps)


def chance_of_outlier(z: np.ndarray, seed: int = 0) -> np.ndarray:
    """How often the largest :func:`robust_z` of as many normal numbers is at least as large as each of these.

    With ten classes, one of them is beyond Neural Cleanse's threshold of 2 in one of three models without a backdoor;
    one in twenty is beyond 3.9.

    Example:
        >>> chance_of_outlier(np.array([0.0] * 8 + [2.0, 3.9])).round(2).tolist()[-2:]
        [0.33, 0.05]
    """
    draws = np.random.default_rng(seed).standard_normal((max(1000, DRAWS // len(z)), len(z)))
    distance = draws - np.median(draws, 1, keepdims=True)
    largest = np.sort(distance.max(1) / (NORMAL * np.median(np.abs(distance), 1)))
    return (len(largest) - np.searchsorted(largest, z) + 1) / (len(largest) + 1)
