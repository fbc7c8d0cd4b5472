"""Prompts for CLIP's zero-shot classifier, with its authors' ImageNet classes and templates (Radford et al., 2021)."""

from __future__ import annotations

from collections.abc import Sequence


def imagenet_classes() -> tuple[str, ...]:
    """The 1,000 ImageNet class names of CLIP's authors; ``missile`` and ``sunglasses`` each name two classes."""
    from open_clip import IMAGENET_CLASSNAMES  # takes seconds to import

    return tuple(IMAGENET_CLASSNAMES)


def imagenet_templates() -> tuple[str, ...]:
    """The 80 prompt templates of CLIP's authors, with ``{}`` where the class name goes."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return tuple(template('{}') for template in OPENAI_IMAGENET_TEMPLATES)


def fill_templates(name: str, templates: Sequence[str]) -> list[str]:
    """Fills a class name into every template; the name may contain braces itself.

    Example:
        >>> fill_templates('banana', ['a photo of a {}.', 'a drawing of a {}.'])
        ['a photo of a banana.', 'a drawing of a banana.']
    """
    return [template.replace('{}', name) for template in templates]
