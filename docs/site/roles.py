"""Reads docstrings for the site: names as in Sphinx, ``:class:`CLIP```, become links, doctests become code."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r':(?:class|meth|func|data|attr|mod):`~?([\w.]+)`')
EXAMPLE = re.compile(r'^Example:$', re.MULTILINE)  # a note to the parser, while a section `Examples` shows code
PACKAGES = ('lightning_modules', 'datamodules', 'callbacks', 'experiments')


class LinkRoles(griffe.Extension):
    """Turns each role into a cross-reference, or into code where the site has no such object."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Visits every object once a package has been read."""
        self._visit(pkg)

    def _visit(self, thing: griffe.Object) -> None:
        if thing.docstring is not None:
            text = EXAMPLE.sub('Examples:', thing.docstring.value)
            thing.docstring.value = ROLE.sub(lambda match: self._link(thing, match[1]), text)
        for member in thing.members.values():
            if not member.is_alias:
                self._visit(member)

    def _link(self, thing: griffe.Object, name: str) -> str:
        try:
            path = thing.resolve(name)
            shown = path.split('.')[0] in PACKAGES and self._is_shown(thing.modules_collection[path])
        except (griffe.NameResolutionError, griffe.AliasResolutionError, KeyError):
            shown = False
        return f'[`{name}`][{path}]' if shown else f'`{name}`'

    def _is_shown(self, thing: Any) -> bool:
        return thing.has_docstring and not any(part.startswith('_') for part in thing.path.split('.'))
