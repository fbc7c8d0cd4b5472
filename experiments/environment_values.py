"""Keeps values of environment variables out of what a run saves.

``${oc.env:NAME}`` in a file stands for the value of a variable, which may be a secret or a path of this machine. The
run uses the value; its ``config.yaml`` and W&B get what was written, and a run that reads the file looks it up again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from inspect import signature
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

Key = tuple[str | int, ...]

_hidden: ContextVar[bool] = ContextVar('_hidden', default=False)


def _env(*args: Any) -> Any:
    return 'hidden' if _hidden.get() else oc.env(*args)


# OmegaConf 2.4 has renamed `register_new_resolver`. Before, its name now was that of a function that replaces none.
_RENAMED = 'replace' in signature(OmegaConf.register_resolver).parameters
getattr(OmegaConf, 'register_resolver' if _RENAMED else 'register_new_resolver')('oc.env', _env, replace=True)


def from_environment(settings: dict[str, Any]) -> dict[Key, str]:
    """Settings whose value depends on an environment variable, as they are written, by their keys from outside in."""
    config = OmegaConf.create(settings)
    return {key: text for key, text in _interpolated(settings) if _value(config, key) != _value_without(config, key)}


def as_written(settings: Any, written: Mapping[Key, str]) -> Any:
    """Settings with some values replaced by what was written; keys that are not among them are left out."""
    for *outer, last in written:
        part = settings
        for key in outer:
            part = part[key] if _has(part, key) else None
        if _has(part, last):
            part[last] = written[(*outer, last)]
    return settings


def _has(part: Any, key: str | int) -> bool:
    return (
        key in part if isinstance(part, dict) else isinstance(part, list) and isinstance(key, int) and key < len(part)
    )


def _interpolated(value: Any, key: Key = ()) -> Iterator[tuple[Key, str]]:
    if isinstance(value, str) and '${' in value:
        yield key, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for part, inner in items:
        yield from _interpolated(inner, (*key, part))


def _value(config: DictConfig, key: Key) -> Any:
    value: Any = config
    try:
        for part in key:
            value = value[part]
    except OmegaConfBaseException as error:
        return str(error)
    return value


def _value_without(config: DictConfig, key: Key) -> Any:
    token = _hidden.set(True)
    try:
        return _value(config, key)
    finally:
        _hidden.reset(token)
