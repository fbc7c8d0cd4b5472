"""Signatures of classes, read from source files with ``ast``, so that nothing has to be imported."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

BASES_WITHOUT_CONSTRUCTOR = ('ABC', 'Generic', 'Protocol', 'object')


class ClassSource(NamedTuple):
    """What a source file says about a class.

    Attributes:
        bases: Names of its base classes, without their modules.
        parameters: Annotations of the arguments of its own constructor, as source, by name; ``None`` if it has no
            constructor.
        passes_on: Whether the constructor takes further keyword arguments.
        docstring: What the class is for, and its arguments.
        defaults: Default values of the arguments that have one, as source, by name.
        is_abstract: Whether the class itself leaves a method to its subclasses.
        given: How many arguments its constructor gives to that of its base by position, and the names of the others.
    """

    bases: tuple[str, ...]
    parameters: dict[str, str] | None
    passes_on: bool
    docstring: str = ''
    defaults: dict[str, str] = {}  # noqa: RUF012  # never changed
    is_abstract: bool = False
    given: tuple[int, frozenset[str]] = (0, frozenset())


class ClassIndex(dict[str, ClassSource]):
    """Classes of source files by name."""

    @classmethod
    def of(cls, folders: Iterable[Path]) -> ClassIndex:
        """Reads every Python file below some folders, or single files."""
        files = [file for folder in folders for file in ([folder] if folder.is_file() else folder.rglob('*.py'))]
        return cls(entry for file in sorted(files) for entry in _classes(ast.parse(file.read_bytes())))

    def family(self, base: str) -> list[str]:
        """A class and all that derive from it; none if the class is not among these."""
        return [name for name in self if base in self and base in self._ancestors(name)]

    def parameters(self, name: str) -> dict[str, str] | None:
        """Annotations of all arguments of a constructor, by name; ``None`` if not all of them can be known."""
        if name not in self:
            return None
        source = self[name]
        if source.parameters is not None and not source.passes_on:
            return source.parameters
        if not source.bases:
            return None if source.passes_on else {}
        inherited = self.parameters(source.bases[0])
        if inherited is None:
            return None
        given = self._names_given(source)
        return {**{n: a for n, a in inherited.items() if n not in given}, **(source.parameters or {})}

    def _names_given(self, source: ClassSource) -> frozenset[str]:
        """Names of the arguments that a constructor gives to that of its base."""
        count, names = source.given
        constructors = (self[base].parameters for base in self.lineage(source.bases[0]))
        positional = next((list(own) for own in constructors if own is not None), [])
        return names.union(positional[:count])

    def lineage(self, name: str) -> list[str]:
        """A class and those from which it takes arguments, nearest first: bases as long as arguments are passed on."""
        source = self.get(name)
        if source is None:
            return []
        goes_on = source.bases and (source.parameters is None or source.passes_on)
        return [name, *(self.lineage(source.bases[0]) if goes_on else [])]

    def _ancestors(self, name: str) -> Iterator[str]:
        yield name
        for base in self[name].bases if name in self else ():
            yield from self._ancestors(base)


@cache
def method_parameters(file: Path, class_name: str, method: str) -> dict[str, str] | None:
    """Annotations of a method's arguments by name; ``None`` if the file has no such method."""
    for node in ast.walk(ast.parse(file.read_bytes())) if file.is_file() else ():
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            return next((_parameters(m) for m in _functions(node.body) if m.name == method), None)
    return None


def function_parameters(function: ast.FunctionDef) -> dict[str, str]:
    """Annotations of a function's arguments by name."""
    return _parameters(function)


def _classes(module: ast.Module) -> Iterator[tuple[str, ClassSource]]:
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef):
            yield node.name, _read_class(node)


def _read_class(node: ast.ClassDef) -> ClassSource:
    names = [ast.unparse(base).partition('[')[0].rpartition('.')[2] for base in node.bases]
    bases = tuple(name for name in names if name not in BASES_WITHOUT_CONSTRUCTOR)
    constructor = next((method for method in _functions(node.body) if method.name == '__init__'), None)
    docstring, is_abstract = ast.get_docstring(node) or '', any(map(_is_abstract, _functions(node.body)))
    if constructor is not None:
        parameters, passes_on = _parameters(constructor), constructor.args.kwarg is not None
        given = _given_to_base(constructor)
        return ClassSource(bases, parameters, passes_on, docstring, _defaults(constructor), is_abstract, given)
    if any('dataclass' in ast.unparse(decorator) for decorator in node.decorator_list):
        return ClassSource(bases, dict(_fields(node)), bool(bases), docstring)
    return ClassSource(bases, None, False, docstring, {}, is_abstract)


def _given_to_base(constructor: ast.FunctionDef) -> tuple[int, frozenset[str]]:
    """Arguments of ``super().__init__(...)`` other than those that are passed on."""
    for node in ast.walk(constructor):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == 'super().__init__':
            return len(node.args), frozenset(keyword.arg for keyword in node.keywords if keyword.arg)
    return 0, frozenset()


def _functions(body: Iterable[ast.stmt]) -> list[ast.FunctionDef]:
    return [node for node in body if isinstance(node, ast.FunctionDef)]


def _parameters(function: ast.FunctionDef) -> dict[str, str]:
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    named = {argument.arg: argument.annotation for argument in arguments if argument.arg != 'self'}
    return {name: '' if annotation is None else ast.unparse(annotation) for name, annotation in named.items()}


def _defaults(function: ast.FunctionDef) -> dict[str, str]:
    positional = [*function.args.posonlyargs, *function.args.args]
    with_default = positional[len(positional) - len(function.args.defaults) :]
    pairs = [*zip(with_default, function.args.defaults, strict=True)]
    pairs += [(a, value) for a, value in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True) if value]
    return {argument.arg: ast.unparse(value) for argument, value in pairs}


def _is_abstract(method: ast.FunctionDef) -> bool:
    return any('abstractmethod' in ast.unparse(decorator) for decorator in method.decorator_list)


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            yield statement.target.id, ast.unparse(statement.annotation)


def union(signatures: Iterable[Mapping[str, str] | None]) -> dict[str, str] | None:
    """Arguments that any of some constructors takes; ``None`` if one of them is unknown."""
    merged: dict[str, str] = {}
    for signature in signatures:
        if signature is None:
            return None
        for name, annotation in signature.items():
            merged[name] = f'{merged.get(name, "")} {annotation}'.strip()
    return merged
