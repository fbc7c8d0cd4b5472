"""Prompts for CLIP's zero-shot classifier, with its authors' ImageNet classes and templates (Radford et al., 2021)."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from datamodules.usage_error import UsageError

_IMAGENET_CLASSES = 1000
_CLIP_BENCHMARK_PLACE = '{c}'  # how CLIP_benchmark's templates mark the place of the class


def imagenet_classes() -> tuple[str, ...]:
    """The 1,000 ImageNet class names of CLIP's authors; ``missile`` and ``sunglasses`` each name two classes."""
    from open_clip import IMAGENET_CLASSNAMES  # takes seconds to import

    return tuple(IMAGENET_CLASSNAMES)


def describe_classes(classes: Sequence[str]) -> str:
    """Says in a message which classes these are.

    Example:
        >>> describe_classes(['cat', 'dog']), describe_classes(imagenet_classes())
        ('the 2 classes', "ImageNet's 1,000 classes")
    """
    is_imagenet = len(classes) == _IMAGENET_CLASSES and tuple(classes) == imagenet_classes()
    whose = "ImageNet's" if is_imagenet else 'the'
    return f'{whose} {len(classes):,} classes'


def imagenet_templates() -> tuple[str, ...]:
    """The 80 prompt templates of CLIP's authors, with ``{}`` where the class name goes."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return tuple(template('{}') for template in OPENAI_IMAGENET_TEMPLATES)


def check_templates(templates: Sequence[str], argument: str) -> tuple[str, ...]:
    """Returns templates with ``{}`` for the class, in which CLIP_benchmark writes ``{c}``.

    Raises:
        UsageError: If there is no template, or one has no ``{}`` or other braces.

    Example:
        >>> check_templates(['a photo of a {c}.'], 'data.templates')
        ('a photo of a {}.',)
    """
    if not templates:
        raise UsageError(f'{argument} is empty: give at least one text with {{}} where the name of a class goes.')
    checked = tuple(template.replace(_CLIP_BENCHMARK_PLACE, '{}') for template in templates)
    for template in checked:
        text = template.replace('{}', '')
        if text == template or '{' in text or '}' in text:
            raise UsageError(
                f'{argument} has {template!r}: write {{}} where the name of a class goes, and no other brace.'
            )
    return checked


def check_class_names(names: Sequence[str], argument: str = 'data.class_names') -> None:
    """Refuses names that prompts cannot tell apart; ImageNet's own two are left to those who use its classes.

    Raises:
        UsageError: If a name is empty, or equals another in all but case, which CLIP does not see.
    """
    if len(names) == _IMAGENET_CLASSES and tuple(names) == imagenet_classes():
        return
    seen: dict[str, str] = {}
    for name in names:
        text = ' '.join(unicodedata.normalize('NFC', name).casefold().split())
        if not text or text in seen:
            fault = f'both {seen[text]!r} and {name!r}' if text else f'the name {name!r}'
            raise UsageError(f'{argument} has {fault}: give each class a name that prompts can tell from others.')
        seen[text] = name


def fill_templates(name: str, templates: Sequence[str]) -> list[str]:
    """Fills a class name into every template; the name may contain braces itself.

    Example:
        >>> fill_templates('banana', ['a photo of a {}.', 'a drawing of a {}.'])
        ['a photo of a banana.', 'a drawing of a banana.']
    """
    return [template.replace('{}', name) for template in templates]
