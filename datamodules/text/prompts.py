"""Prompts of a class for the zero-shot classifier, and the classes and templates of CLIP's authors."""

from __future__ import annotations

from collections.abc import Sequence

from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES


def imagenet_classes() -> tuple[str, ...]:
    """The 1,000 class names of CLIP's authors; two of them, missile and sunglasses, stand for two classes each."""
    return tuple(IMAGENET_CLASSNAMES)


def imagenet_templates() -> tuple[str, ...]:
    """The 80 prompts of CLIP's authors, with ``{}`` where the class name goes."""
    return tuple(template('{}') for template in OPENAI_IMAGENET_TEMPLATES)


def prompts(name: str, templates: Sequence[str]) -> list[str]:
    """The prompts of one class, as in ``a photo of a banana.``; a name may hold braces of its own."""
    return [template.replace('{}', name) for template in templates]
