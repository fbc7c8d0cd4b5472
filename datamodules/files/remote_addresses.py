"""Addresses of files that fsspec reads, such as ``s3://bucket/00000.tar``, without the secrets that they may hold.

A password or a signature in an address would stand in every saved configuration. So an address names environment
variables instead, which are filled in when it is opened and never before.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from datamodules.usage_error import UsageError

_ADDRESS = re.compile(
    r'(?P<protocol>[a-z][a-z0-9+.-]*)://((?P<user>[^/?@]*)@)?(?P<path>[^?]*)(\?(?P<query>.*))?',
    re.IGNORECASE | re.DOTALL,
)
_VARIABLES = re.compile(r'(\$\w+:?)*')
_SECRET_PARTS = re.compile(r'(?<=//)[^/\s]*@|\?[^\s\'"]*')


def is_address(text: str) -> bool:
    """Tells whether a text is the address of a file that is not on this machine's disks."""
    return _ADDRESS.fullmatch(text) is not None


def public_address(address: str) -> str:
    """An address without password and query, for messages and names of files.

    Example:
        >>> public_address('https://$USER:$PASSWORD@a.org/0.tar?$SIGNATURE')
        'https://a.org/0.tar'
    """
    parts = _split(address)
    user = '' if _is_secret(parts) else parts['user'] + '@' * bool(parts['user'])
    return f'{parts["protocol"].lower()}://{user}{parts["path"]}'


def place_of(address: str) -> PurePosixPath:
    """Where the copy of a file lies below the folder of all copies: protocol, host and path.

    Example:
        >>> place_of('s3://bucket/cc3m/../00000.tar').as_posix()
        's3/bucket/cc3m/00000.tar'
    """
    protocol, _, path = public_address(address).partition('://')
    return PurePosixPath(protocol, *(part for part in path.split('/') if part not in ('', '.', '..')))


def fill_in(address: str) -> str:
    """Replaces the names of environment variables in an address by their values, and writes its protocol small.

    Raises:
        KeyError: If a variable in place of a password or a query is not set; with its name.
    """
    parts = _split(address)
    for name in re.findall(r'\$(\w+)', parts['user'] + parts['query']):
        os.environ[name]
    protocol, separator, rest = address.partition('://')
    return protocol.lower() + separator + os.path.expandvars(rest)


def without_secrets(text: str) -> str:
    """Removes passwords and queries of addresses from the text of an error.

    Example:
        >>> without_secrets("403, url='https://me:word@a.org/0.tar?sig=1'")
        "403, url='https://a.org/0.tar'"
    """
    return _SECRET_PARTS.sub('', text)


def check_addresses(patterns: str | Iterable[str] | None, argument: str) -> None:
    """Refuses addresses with a password or a query written out; to be called before anything is saved.

    Args:
        patterns: One or several addresses, and paths of local files, which pass.
        argument: Name of the argument that holds them, for the message.

    Raises:
        UsageError: If an address holds what may be a secret.
    """
    listed = [patterns] if isinstance(patterns, str) else patterns or []
    for address in filter(is_address, listed):
        parts = _split(address)
        secret = parts['query'] + parts['user'] * _is_secret(parts)
        if not _VARIABLES.fullmatch(secret):
            raise UsageError(
                f'{argument}: the password or query in the address of {public_address(address)!r} would be saved with '
                f'the configuration: put it into an environment variable, and write $NAME in its place.'
            )


def _split(address: str) -> dict[str, str]:
    match = _ADDRESS.fullmatch(address)
    assert match is not None
    return {name: part or '' for name, part in match.groupdict().items()}


def _is_secret(parts: dict[str, str]) -> bool:
    """Whether what stands before the @ may be a secret, rather than a user of SSH or a container of Azure."""
    return ':' in parts['user'] or parts['protocol'].lower() in ('http', 'https')
