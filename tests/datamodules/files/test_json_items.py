from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.files.json_items import json_items, require_field

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


class TestRequireField:
    def test_returns_text_that_can_be_written_as_utf8(self) -> None:
        assert require_field({'caption': 'a \ud83d cat'}, 'caption', str, 'x') == 'a ? cat'

    @pytest.mark.parametrize('item', [None, 3, [], {}, {'caption': None}, {'caption': 3}])
    def test_names_the_missing_field(self, item: Any) -> None:
        with pytest.raises(ValueError, match=r"^data\.root=x contains an item without 'caption', "):
            require_field(item, 'caption', str, 'data.root=x')
