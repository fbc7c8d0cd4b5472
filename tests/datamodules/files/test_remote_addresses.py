from __future__ import annotations

import pytest

from datamodules.files.remote_addresses import (
    check_addresses,
    fill_in,
    is_address,
    place_of,
    public_address,
    without_secrets,
)
from datamodules.usage_error import UsageError


@pytest.mark.parametrize(
    'text', ['s3://a/0.tar', 'HTTPS://a.org/{0..9}.tar', 'abfs://c@a.b.net/0.tar', 'file:///0.tar']
)
def test_recognizes_addresses(text: str) -> None:
    assert is_address(text)


@pytest.mark.parametrize('text', ['0.tar', '/a/b:c/0.tar', 'pipe:cat 0.tar', 'C:\\a\\0.tar', '://a/0.tar'])
def test_recognizes_what_is_none(text: str) -> None:
    assert not is_address(text)


@pytest.mark.parametrize(
    ('address', 'public'),
    [
        ('HTTPS://$USER:$PASSWORD@a.org:80/x/0.tar?$SIGNATURE', 'https://a.org:80/x/0.tar'),
        ('https://$TOKEN@a.org/0.tar', 'https://a.org/0.tar'),
        ('sftp://$USER:$PASSWORD@host/0.tar', 'sftp://host/0.tar'),
        ('ssh://alice@host/0.tar', 'ssh://alice@host/0.tar'),
        ('abfs://shards@a.b.net/0.tar', 'abfs://shards@a.b.net/0.tar'),
        ('hf://datasets/a/b@main/0.tar', 'hf://datasets/a/b@main/0.tar'),
    ],
)
def test_a_public_address_has_no_secret(address: str, public: str) -> None:
    assert public_address(address) == public
    check_addresses(address, 'data.shards')


def test_a_place_is_below_the_folder_of_all_copies() -> None:
    assert place_of('memory://../..//a/./0.tar').as_posix() == 'memory/a/0.tar'
    assert place_of('https://$USER:$PASSWORD@a.org/0.tar?$SIGNATURE').as_posix() == 'https/a.org/0.tar'


@pytest.mark.parametrize(
    'address',
    [
        'https://me:word@a.org/0.tar',
        'https://word@a.org/0.tar',
        'sftp://me:$PASSWORD@a.org/0.tar',
        's3://me:word@a/0.tar',
        'https://a.org/0.tar?sig=word',
        'https://a.org/0.tar?$SIGNATURE&sig=word',
    ],
)
def test_a_secret_that_is_written_out_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(UsageError, match=r'^data\.shards: the password or query .* \$NAME in its place\.$') as refused:
        check_addresses(['local.tar', address], 'data.shards')
    assert 'word' not in str(refused.value).replace('password', '') and 'me:' not in str(refused.value)


def test_variables_are_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('SIGNATURE', 'sv=1&sig=2')
    monkeypatch.delenv('PASSWORD', raising=False)
    assert fill_in('HTTPS://a.org/0.tar?$SIGNATURE') == 'https://a.org/0.tar?sv=1&sig=2'
    with pytest.raises(KeyError, match='PASSWORD'):
        fill_in('https://$SIGNATURE:$PASSWORD@a.org/0.tar')


def test_errors_lose_passwords_and_queries() -> None:
    text = "403, message='Forbidden', url='https://me:w@rd@a.org/0.tar?sig=word&x=1', see http://b.org/c?d"
    assert without_secrets(text) == "403, message='Forbidden', url='https://a.org/0.tar', see http://b.org/c"
