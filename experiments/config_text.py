"""Reads the text of a file of settings, and says in one sentence what is wrong with it."""

from __future__ import annotations

from typing import NoReturn

import yaml

from datamodules.usage_error import UsageError

LOADER = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
KINDS = {yaml.SequenceNode: 'a list', yaml.ScalarNode: 'a single value'}


def read_mapping(text: str, file: str) -> yaml.MappingNode | None:
    """The settings in a text, as YAML nodes.

    Args:
        text: Content of a file.
        file: Its name, for messages.

    Returns:
        The outermost mapping; ``None`` if the text has nothing but comments.

    Raises:
        UsageError: If the text is not YAML, is not a mapping, or sets a key twice; the message says in which line.
    """
    try:
        root = yaml.compose(text, LOADER)
    except yaml.YAMLError as error:
        _refuse_syntax(error, text, file)
    if root is None or _is_null(root):
        return None
    if not isinstance(root, yaml.MappingNode):
        raise UsageError(
            f'config: {file} holds {KINDS[type(root)]}: expected settings by name, such as trainer: {{max_epochs: 5}}.'
        )
    _check_keys(root, file, ())
    return root


def child(mapping: yaml.MappingNode | None, name: str) -> yaml.Node | None:
    """The value of a key; ``None`` without one."""
    return next((value for key, value in mapping.value if key.value == name), None) if mapping else None


def line_of(node: yaml.Node) -> int:
    """Line of a node, counted from 1."""
    return int(node.start_mark.line) + 1


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == 'tag:yaml.org,2002:null')


def _refuse_syntax(error: yaml.YAMLError, text: str, file: str) -> NoReturn:
    mark = getattr(error, 'problem_mark', None)
    if mark is None:
        raise UsageError(f'config: {file} is not YAML: {" ".join(str(error).split())}.') from error
    lines = text.splitlines()
    uses_tab = mark.line < len(lines) and '\t' in lines[mark.line][: mark.column + 1]
    problem = 'a tab, where YAML wants spaces' if uses_tab else getattr(error, 'problem', '')
    raise UsageError(f'config: {file} is not YAML: line {mark.line + 1}: {problem}.') from error


def _check_keys(node: yaml.Node, file: str, users: tuple[yaml.Node, ...]) -> None:
    """Refuses keys that are set twice, and nodes that contain themselves."""
    if node in users:
        raise UsageError(f'config: {file}: line {line_of(node)}: a value that contains itself.')
    if not node.tag.startswith('tag:yaml.org,2002:') or 'python' in node.tag:
        raise UsageError(f'config: {file}: line {line_of(node)}: tags such as {node.tag!r} are not read.')
    chain = (*users, node)
    lines: dict[str, int] = {}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if not isinstance(key, yaml.ScalarNode):
            raise UsageError(f'config: {file}: line {line_of(key)}: a name must stand before the colon.')
        if key.value in lines:
            raise UsageError(
                f'config: {file}: line {line_of(key)} sets {key.value} again, after line {lines[key.value]}: keep one.'
            )
        lines[key.value] = line_of(key)
        _check_keys(value, file, chain)
    for item in node.value if isinstance(node, yaml.SequenceNode) else ():
        _check_keys(item, file, chain)
