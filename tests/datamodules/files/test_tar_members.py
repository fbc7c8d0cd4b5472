from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from datamodules.files.tar_members import DamagedTarError, TarMember, walk_members

BLOCK = 512


def write_tar(path: Path, *members: tarfile.TarInfo, tar_format: int = tarfile.PAX_FORMAT) -> Path:
    """Writes members with as many bytes of content as they have; links and folders have none."""
    with tarfile.open(path, 'w', format=tar_format) as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b'x' * member.size))
    return path


def member(name: str, size: int = 3, kind: bytes = tarfile.REGTYPE, **attributes: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type = size if kind == tarfile.REGTYPE else 0, kind
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info


def header(name: str = 'a', size: bytes = b'3', kind: bytes = b'0', **fields: bytes) -> bytes:
    """Makes the header of a member by hand, with fields that no library would write."""
    block = bytearray(BLOCK)
    places = {'mtime': 136, 'uid': 108, 'devmajor': 329}
    for place, value in [(0, name.encode()), (124, size), (156, kind), *((places[f], v) for f, v in fields.items())]:
        block[place : place + len(value)] = value
    block[148:156] = b'%06o\0 ' % (sum(block) + 8 * 32)
    return bytes(block)


def walk(path: Path) -> tuple[list[TarMember], str]:
    """Walks to the end or to the damage, and returns what was damaged."""
    members: list[TarMember] = []
    try:
        with path.open('rb') as file:
            members.extend(walk_members(file))  # which keeps those before an error
    except DamagedTarError as error:
        return members, str(error)
    return members, ''


@pytest.mark.parametrize('tar_format', [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_finds_what_tarfile_finds(tar_format: int, tmp_path: Path) -> None:
    names = ['a.jpg', './b.jpg', 'f' * 99 + '/' + 'g' * 90, '/é.txt', *(['n' * 300] if tar_format else [])]
    path = write_tar(tmp_path / 'a.tar', *map(member, names), member('folder', kind=b'5'), tar_format=tar_format)
    with tarfile.open(path) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar if m.isreg()]
    members, damage = walk(path)
    assert [(m.name, m.offset, m.size) for m in members] == expected and not damage


def test_members_that_are_no_files_are_marked(tmp_path: Path) -> None:
    kinds = [b'1', b'2', b'3', b'4', b'6']
    path = write_tar(
        tmp_path / 'a.tar', *(member('x', kind=kind, linkname='/etc/passwd') for kind in kinds), member('y')
    )
    assert [m.is_file for m in walk(path)[0]] == [False] * 5 + [True]


def test_sparse_members_are_marked_and_skipped(tmp_path: Path) -> None:
    old = bytearray(header('old', b'%011o' % BLOCK, b'S'))
    old[482] = 1
    old[148:156] = b'%06o\0 ' % (sum(old) - sum(old[148:156]) + 8 * 32)
    more, last = bytearray(BLOCK), bytes(BLOCK)
    more[504] = 1
    new = member('new', pax_headers={'GNU.sparse.major': '1'})
    path = write_tar(tmp_path / 'a.tar', new, member('z'))
    path.write_bytes(bytes(old) + more + last + b'd' * BLOCK + path.read_bytes())
    assert [(m.name, m.is_file) for m in walk(path)[0]] == [('old', False), ('new', False), ('z', True)]


def test_fields_that_do_not_matter_may_hold_anything(tmp_path: Path) -> None:
    blocks = [header(name, mtime=b'garbage!', uid=b'\xff' * 8, devmajor=b'-1') + b'x' * BLOCK for name in ('a', 'b')]
    (tmp_path / 'a.tar').write_bytes(b''.join(blocks) + bytes(2 * BLOCK))
    assert [m.name for m in walk(tmp_path / 'a.tar')[0]] == ['a', 'b'] and not walk(tmp_path / 'a.tar')[1]
    negative = member('c', mtime=-1.5, pax_headers={'mtime': '-9' * 50, 'atime': 'x'})
    assert [m.name for m in walk(write_tar(tmp_path / 'b.tar', negative))[0]] == ['c']


@pytest.mark.parametrize(
    ('block', 'damage'),
    [
        (header(size=b'\xff' * 12), 'broken header at byte 1,024'),  # -1
        (header(size=b'\x80' + b'\xff' * 11), 'within a member'),
        (header(size=b'777777777777'), 'within a member'),
        (header(size=b'12-4'), 'broken header at byte 1,024'),
        (header(kind=b'x', size=b'77777777777'), 'within a member'),
        (header(kind=b'x', size=b'%o' % 21) + b'21 size=-' + b'9' * 11 + b'\n', 'cut off|broken size'),
        (header(kind=b'L', size=b'4000001') + bytes(2_000_000), 'bytes of attributes'),
        (b'x' * BLOCK, 'broken header at byte 1,024'),
        (header()[:100], 'broken header at byte 1,024'),
        (header() + b'12', 'within a member'),
        (b'', 'cut off at byte 1,024, before the end mark'),
        (bytes(20 * BLOCK) + header(), 'more bytes follow the end mark'),
    ],
)
def test_what_comes_before_the_damage_is_found(block: bytes, damage: str, tmp_path: Path) -> None:
    (tmp_path / 'a.tar').write_bytes(header('good') + b'x' * BLOCK + block)
    members, found = walk(tmp_path / 'a.tar')
    assert [m.name for m in members][:1] == ['good'] and pytest.approx(len(members), abs=1) == 1
    assert any(part in found for part in damage.split('|'))


@pytest.mark.parametrize(
    ('content', 'damage'),
    [
        (b'', 'empty'), (b'<html>not found</html>' * 100, 'not a tar file'), (b'\x1f\x8b' + b'x' * 600, 'gzip, unpack'),
        (b'\x28\xb5\x2f\xfd', 'zstd'), (b'PK\3\4', 'zip'),
    ],
)  # fmt: skip
def test_a_file_that_is_no_tar_is_described(content: bytes, damage: str, tmp_path: Path) -> None:
    (tmp_path / 'a.tar').write_bytes(content)
    assert walk(tmp_path / 'a.tar')[0] == [] and damage in walk(tmp_path / 'a.tar')[1]


def test_names_that_are_not_utf8_are_escaped(tmp_path: Path) -> None:
    path = write_tar(tmp_path / 'a.tar', member('caf\udce9.jpg'), tar_format=tarfile.GNU_FORMAT)
    assert [m.name for m in walk(path)[0]] == ['caf\\xe9.jpg']
