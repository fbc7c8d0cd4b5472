from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.files.json_items import json_items, read_id, read_list, read_text
from datamodules.usage_error import UsageError
from tests.helpers.mutations import mutations

TRICKY = [{'a': 'x, ]}"\\ \n é 猫', 'b': [1, [2, {'c': None}]]}, 'text', 17, -2.5e3, True, [], {}, '']


def read(path: Path) -> list[tuple[str, Any]]:
    return list(json_items(path, 'data.root=x'))


def write(folder: Path, text: str) -> Path:
    (folder / 'x.json').write_text(text, encoding='utf-8')
    return folder / 'x.json'


@pytest.fixture(params=[1, 2, 7, 1 << 20])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces in which the file is read: a value may end anywhere in them."""
    monkeypatch.setattr('datamodules.files.json_items._CHUNK_CHARACTERS', request.param)


@pytest.mark.usefixtures('chunk')
class TestItems:
    @pytest.mark.parametrize('indent', [None, 2])
    @pytest.mark.parametrize('items', [[], [[]], TRICKY, [12345, 678]])
    def test_a_list_yields_what_json_reads(self, items: list[Any], indent: int | None, tmp_path: Path) -> None:
        file = write(tmp_path, json.dumps(items, indent=indent))
        assert read(file) == [('', item) for item in items]

    @pytest.mark.parametrize('ascii_only', [True, False])
    def test_lists_of_an_object_yield_items_with_their_key(self, ascii_only: bool, tmp_path: Path) -> None:
        content = {'info': {'images': [1]}, 'images': TRICKY, 'year': 2014, 'none': [], 'annotations': [1, 2]}
        file = write(tmp_path, json.dumps(content, ensure_ascii=ascii_only))
        assert read(file) == [*(('images', item) for item in TRICKY), ('annotations', 1), ('annotations', 2)]

    def test_an_empty_object_yields_nothing(self, tmp_path: Path) -> None:
        assert read(write(tmp_path, ' {\n} ')) == []

    @pytest.mark.parametrize('end', range(1, 40, 3))
    def test_rejects_a_file_cut_off_anywhere(self, end: int, tmp_path: Path) -> None:
        whole = json.dumps({'images': [{'id': 1}, {'id': 22}], 'year': 2014})
        with pytest.raises(ValueError, match=r'^data\.root=x is not valid JSON: .* at character [\d,]+; download it'):
            read(write(tmp_path, whole[:end]))

    @pytest.mark.parametrize('text', ['', 'hello', '17', '[1 2]', '[1,]', '{"a" 1}', '{1: 2', '[{"a": nope}]', '[1}'])
    def test_rejects_what_is_neither_list_nor_object(self, text: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r'is not valid JSON') as error:
            read(write(tmp_path, text))
        assert '\n' not in str(error.value)


class TestBounds:
    def test_text_that_has_been_read_is_discarded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr('datamodules.files.json_items._CHUNK_CHARACTERS', 100)
        held = []
        decoder = json.JSONDecoder()

        class Watched:
            def raw_decode(self, text: str, at: int) -> tuple[Any, int]:
                held.append(len(text))
                return decoder.raw_decode(text, at)

        monkeypatch.setattr('datamodules.files.json_items._DECODER', Watched())
        file = write(tmp_path, json.dumps([{'number': number} for number in range(1000)]))
        assert len(read(file)) == 1000 and max(held) < 300

    def test_unclosed_brackets_do_not_fill_the_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr('datamodules.files.json_items._CHUNK_CHARACTERS', 100)
        monkeypatch.setattr('datamodules.files.json_items._MAX_ITEM_CHARACTERS', 1000)
        file = write(tmp_path, '[{"a": [' + '1, ' * 100_000)
        with pytest.raises(ValueError, match=r'at character \d,\d{3};'):
            read(file)

    def test_rejects_endlessly_nested_lists(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match='is not valid JSON'):
            read(write(tmp_path, '[' * 200_000))


class TestFields:
    def test_text_can_be_written_as_utf8(self) -> None:
        assert read_text({'caption': 'a \ud83d cat'}, 'caption') == 'a ? cat'

    @pytest.mark.parametrize('item', [None, 3, [], {}, {'caption': None}, {'caption': 3}, {'caption': 'caf\udcff'}])
    def test_what_is_not_text_is_none(self, item: Any) -> None:
        assert read_text(item, 'caption') is None and read_list(item, 'caption') == []

    def test_bytes_that_are_not_utf8_are_not_text(self, tmp_path: Path) -> None:
        (tmp_path / 'x.json').write_bytes('[{"caption": "café"}, {"caption": "tea"}]'.encode('latin1'))
        assert [read_text(item, 'caption') for _, item in read(tmp_path / 'x.json')] == [None, 'tea']

    def test_a_second_file_after_the_first_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / 'x.json').write_text('{"images": []}\n{"images": []}')
        with pytest.raises(UsageError, match='is not valid JSON: end of the file expected at character 15'):
            list(read(tmp_path / 'x.json'))

    @pytest.mark.parametrize('value', [7, 7.0, '7', '007', ' 7', '7.0', '7.'])
    def test_an_identifier_may_be_written_in_several_ways(self, value: object) -> None:
        assert read_id({'image_id': value}, 'id', 'image_id') == 7
        assert read_id({'id': '-7.0'}, 'id') == -7

    @pytest.mark.parametrize('value', [None, True, [7], {}, 7.5, float('nan'), float('inf')])
    def test_what_identifies_nothing_is_none(self, value: object) -> None:
        assert read_id({'id': value}, 'id') is None and read_id(value, 'id') is None

    def test_long_identifiers_stay_text(self) -> None:
        assert read_id({'id': '9' * 5000}, 'id') == '9' * 5000


WHOLE = json.dumps({'images': TRICKY, 'none': [], 'annotations': [{'id': 10**30, 'x': -1.5e300}]}).encode()


def test_mutated_files_end_in_a_sentence(tmp_path: Path) -> None:
    for data in (*mutations(WHOLE, 300), b'[' * 100_000, b'[' + b'1' * 10_000 + b']', b'[NaN, -Infinity, 1e999]'):
        (tmp_path / 'x.json').write_bytes(data)
        try:
            for _, item in read(tmp_path / 'x.json'):
                read_text(item, 'a'), read_id(item, 'id'), read_list(item, 'b')
        except UsageError as error:
            assert str(error).startswith('data.root=x') and '\n' not in str(error)
