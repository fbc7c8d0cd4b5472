"""Code blocks of the documents, which tests write to files and run."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r'<!-- test: (?P<name>[\w ]+) -->\n```(?P<language>\w+)\n(?P<code>.*?)```', re.DOTALL)


def snippets(page: str) -> dict[str, str]:
    """The marked blocks of a page by the name in their marker."""
    return {match['name']: match['code'] for match in BLOCK.finditer((ROOT / page).read_text())}


def imported(code: str, name: str, folder: Path) -> ModuleType:
    """A block as a module of its own."""
    file = folder / f'{name}.py'
    file.write_text(code)
    spec = importlib.util.spec_from_file_location(f'snippet_{name}', file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def constructed(module: ModuleType, config: dict[str, Any], **more: Any) -> Any:
    """The object that a configuration of ``class_path`` and ``init_args`` describes, its class from the module."""
    return getattr(module, config['class_path'])(**{**config['init_args'], **more})


def configuration(code: str) -> dict[str, Any]:
    """A block of YAML."""
    content: dict[str, Any] = yaml.safe_load(code)
    return content
