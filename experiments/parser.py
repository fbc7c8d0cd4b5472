"""The parser of options and YAML files."""

from __future__ import annotations

from argparse import SUPPRESS, Action
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, get_args, get_origin

import yaml
from jsonargparse import ActionConfigFile, set_parsing_settings  # type: ignore[attr-defined]  # not in `__all__`
from lightning.pytorch.cli import LightningArgumentParser

from datamodules.usage_error import UsageError
from experiments.config_files import run_name, with_bases, without_base
from experiments.environment_values import Key, as_written, from_environment
from experiments.errors import fail
from experiments.parser_message import parser_message

# Lets `${trainer.max_epochs}` in a file refer to the subcommand's own, which the parser nests under `fit`.
set_parsing_settings(omegaconf_absolute_to_relative_paths=True)

VERBATIM = '\0'  # put before a value that an inner parser will read; no shell can pass this character


class ConfigFile(ActionConfigFile):
    """``--config``: finds shipped files by name, reads their bases first, and names the run after the files."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        for config in with_bases(values):
            earlier = _paths(cfg.get(self.dest))
            try:
                self.apply_config(parser, cfg, self.dest, config)
            except ImportError as error:  # of a package that reads from a storage
                raise UsageError(f'config: {config}: {error}.') from error
            if cfg.get('name') == run_name(earlier):  # neither a file nor an option has named the run
                cfg['name'] = run_name(_paths(cfg[self.dest]))


def _paths(configs: Sequence[Any] | None) -> list[Path]:
    return [Path(str(config)) for config in configs or () if config is not None]  # None stands for YAML text


def place_csv_logger(arguments: Sequence[str]) -> list[str]:
    """Lets ``--trainer.logger=CSVLogger`` log where the run is; Lightning's class has no default for its folder."""
    given = '--trainer.logger=CSVLogger'
    if given not in arguments or any(argument.startswith('--trainer.logger.save_dir') for argument in arguments):
        return list(arguments)
    at = arguments.index(given) + 1
    where = ['save_dir=${...default_root_dir}', 'name=${....name}']  # of the trainer, and of the run around it
    return [*arguments[:at], *(f'--trainer.logger.{setting}' for setting in where), *arguments[at:]]


class Parser(LightningArgumentParser):
    """Lightning's parser, with short errors, shipped files found by name, and ``null`` that means null at any depth.

    jsonargparse reads the value of ``--data.attacks.badnet.rate=null`` before it knows the argument, then hands its
    Python form, the word ``None``, to the parser of the class one level down. This parser instead passes the text on
    as typed, down to the parser that has the argument. So ``null`` is null at any depth, and ``None`` is a string.

    Attributes:
        interpolated: Settings that depend on environment variables, as they were written, by their keys.
        written: Those of them that :meth:`dump` writes as they were written.
    """

    interpolated: Mapping[Key, str] = MappingProxyType({})
    written: Mapping[Key, str] = MappingProxyType({})

    def dump(self, cfg: Any, *rest: Any, **kwargs: Any) -> str:
        """YAML of settings, with what came from environment variables as it was :attr:`written`.

        jsonargparse dumps the settings too, to replace their interpolations; only there can these be seen.
        """
        text: str = super().dump(cfg, *rest, **kwargs)
        if 'oc.env' in text:
            self.interpolated = from_environment(yaml.safe_load(text))
        if not self.written:
            return text
        return yaml.safe_dump(as_written(yaml.safe_load(text), self.written), sort_keys=False)

    def keep_written(self, subcommand: str, parser: Parser) -> None:
        """Lets the parser of a subcommand save what this one, whose subcommand it is, found to be interpolated."""
        parser.written = {key[1:]: text for key, text in self.interpolated.items() if key[0] == subcommand}

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get('action') is ActionConfigFile:
            kwargs['action'] = ConfigFile
        return super().add_argument(*args, **kwargs)

    def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        return super().parse_args(None if args is None else [*self._with_verbatim_values(args)], *rest, **kwargs)

    def parse_string(self, content: str, *rest: Any, **kwargs: Any) -> Any:
        return super().parse_string(without_base(content), *rest, **kwargs)

    def validate(self, namespace: Any, *rest: Any, **kwargs: Any) -> None:
        super().validate(namespace, *rest, **kwargs)
        for action in self._actions:  # jsonargparse lets null pass anywhere, as if the argument had not been given
            is_null = action.dest in namespace and namespace[action.dest] is None
            if is_null and action.default not in (None, SUPPRESS) and not _accepts_null(action):
                raise TypeError(f'Parser key "{action.dest}": Expected a {_hint_of(action)}. Got value: null')

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        message = message.replace(VERBATIM, '').replace(repr(VERBATIM).strip("'"), '')
        if not self.exit_on_error:
            super().error(message, ex)
        fail(parser_message(message))

    def _with_verbatim_values(self, args: Sequence[str]) -> Iterator[str]:
        """Marks the values that an inner parser reads as :data:`VERBATIM`."""
        words = list(args)
        while words:
            option, equals, value = words.pop(0).partition('=')
            if option.endswith('.class_path') and self._is_key_of_a_mapping(option.removesuffix('.class_path')):
                # jsonargparse would forget the class when another option of the same key follows
                option = option.removesuffix('.class_path')
            if self._is_read_by_an_inner_parser(option) and not equals and words and not words[0].startswith('--'):
                equals, value = '=', words.pop(0)
            marker = VERBATIM if equals and self._is_read_by_an_inner_parser(option) else ''
            yield f'{option}{equals}{marker}{value.removeprefix(VERBATIM)}'

    def _is_read_by_an_inner_parser(self, option: str) -> bool:
        """Whether an option sets an argument of a class that is nested in a class that this parser builds."""
        action, inner = self._split_option(option)
        if inner[:1] == ['dict_kwargs']:  # arguments that no signature has, and so no parser either
            return False
        return len(inner) - (inner[:1] == ['init_args']) > 1 and not _is_mapping(_hint_of(action))

    def _is_key_of_a_mapping(self, option: str) -> bool:
        action, inner = self._split_option(option)
        return len(inner) == 1 and _is_mapping(_hint_of(action))

    def _split_option(self, option: str) -> tuple[Action | None, list[str]]:
        """The argument of this parser that an option belongs to, and the remaining parts, for inner parsers."""
        known = self._option_string_actions
        parts = option.split('.')
        lengths = [n for n in range(1, len(parts) + 1) if '.'.join(parts[:n]) in known]
        if not option.startswith('--') or not lengths:
            return None, []
        return known['.'.join(parts[: lengths[-1]])], parts[lengths[-1] :]


def _hint_of(action: Action | None) -> Any:
    return getattr(action, '_typehint', Any)


def _accepts_null(action: Action) -> bool:
    return _hint_of(action) is Any or bool({None, type(None)} & {*get_args(_hint_of(action))})


def _is_mapping(hint: Any) -> bool:
    kinds = [get_origin(kind) or kind for kind in (hint, *get_args(hint))]
    return any(isinstance(kind, type) and issubclass(kind, Mapping) for kind in kinds)
