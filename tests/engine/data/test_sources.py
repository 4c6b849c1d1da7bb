import csv
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.contract.errors import DataError, SpecError, TraindeckError
from engine.contract.spec import DataSpec
from engine.data import records, shards
from engine.data.sources import Source, open_source, read_shard

STORIES = [f"Story {number}: once upon a time, a hen laid {number} eggs. ½ 漢\n" * 3 for number in range(40)]
ROWS = [{"id": str(number), "kind": "story", "content": story} for number, story in enumerate(STORIES)]


def _open(tmp_path: Path, source: object, **data: Any) -> Source:
    return open_source(DataSpec(source=str(source), **data), tmp_path / "cache", lambda _: None)


def _read(tmp_path: Path, source: object, **data: Any) -> list[str]:
    opened = _open(tmp_path, source, **data)
    texts = [text for shard in opened.shards for text in read_shard(opened.reading, shard)]
    return [text for text in texts if text is not None]


def _jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _csv(path: Path, delimiter: str = ",") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "kind", "content"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)
    return path


def _table(rows: list[dict[str, Any]] = ROWS) -> pa.Table:
    return pa.Table.from_pylist(rows)


def test_every_structured_format_gives_the_same_documents(tmp_path: Path) -> None:
    (tmp_path / "array.json").write_text(json.dumps(ROWS, indent=1))
    (tmp_path / "wrapped.json").write_text(json.dumps({"version": 1, "about": {"x": [1]}, "data": ROWS}))
    (tmp_path / "strings.json").write_text(json.dumps(STORIES))
    pq.write_table(_table(), tmp_path / "rows.parquet", row_group_size=7)
    for source in (
        _jsonl(tmp_path / "rows.jsonl", ROWS),
        _jsonl(tmp_path / "lines.json", ROWS),
        _jsonl(tmp_path / "strings.jsonl", STORIES),
        tmp_path / "array.json",
        tmp_path / "wrapped.json",
        tmp_path / "strings.json",
        _csv(tmp_path / "rows.csv"),
        _csv(tmp_path / "rows.tsv", "\t"),
        _csv(tmp_path / "semicolons.csv", ";"),
        tmp_path / "rows.parquet",
    ):
        assert _read(tmp_path, source) == STORIES, source.name


def test_the_standard_library_is_its_sources_in_a_fixed_order(tmp_path: Path) -> None:
    source = _open(tmp_path, "python-stdlib")
    names = [str(file) for file in source.files]
    assert names == [str(file) for file in _open(tmp_path, "python-stdlib").files]
    assert any(name.endswith("/ast.py") for name in names)
    assert not any("site-packages" in name or "__pycache__" in name for name in names)
    assert source.bytes > 5_000_000
    assert len(source.shards) > 1


def test_a_folder_gives_each_file_as_a_document(tmp_path: Path) -> None:
    folder = tmp_path / "books"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "two.txt").write_text("second")
    (folder / "a.txt").write_text("first")
    (folder / "empty.txt").touch()
    (folder / ".hidden").write_text("no")
    assert sorted(_read(tmp_path, folder)) == ["first", "second"]
    (folder / "photo.bin").write_bytes(b"\x00\x01\x02")
    with pytest.raises(DataError, match=r"photo\.bin"):
        _read(tmp_path, folder)


def test_a_folder_of_structured_files_is_read_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    _jsonl(folder / "1.jsonl", ROWS[20:])
    _jsonl(folder / "0.jsonl", ROWS[:20])
    assert _read(tmp_path, folder) == STORIES
    (folder / "README").write_text("about these rows")
    assert _read(tmp_path, folder, format="jsonl") == STORIES


def test_saved_datasets_are_read(tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    one = datasets.Dataset.from_list(ROWS)
    one.save_to_disk(tmp_path / "one", num_shards=3)
    datasets.DatasetDict({"train": one, "test": one.select(range(3))}).save_to_disk(tmp_path / "several")
    assert _read(tmp_path, tmp_path / "one") == STORIES
    assert _read(tmp_path, tmp_path / "several") == STORIES
    assert _read(tmp_path, tmp_path / "several", split="test") == STORIES[:3]
    with pytest.raises(DataError, match="train, test"):
        _read(tmp_path, tmp_path / "several", split="validation")
    (tmp_path / "one" / "data-00001-of-00003.arrow").unlink()
    with pytest.raises(DataError, match=r"data-00001-of-00003\.arrow is missing"):
        _read(tmp_path, tmp_path / "one")


def test_many_shards_read_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 700)
    pq.write_table(_table(), tmp_path / "rows.parquet", row_group_size=3)
    for source in (_jsonl(tmp_path / "rows.jsonl", ROWS), tmp_path / "rows.parquet"):
        assert len(_open(tmp_path, source).shards) > 5
        assert _read(tmp_path, source) == STORIES


@pytest.mark.parametrize(
    ("rows", "field"),
    [
        ([{"title": "a long title that is long", "text": "t"}], "text"),
        ([{"Content": "c", "url": "http://a.very.long.address"}], "Content"),
        ([{"a": "x", "b": "longest of them", "c": 3}], "b"),
        ([{"n": 1, "text": None}, {"n": 2, "text": "here"}], "text"),
        ([{"text": 3, "label": "word"}], "label"),
    ],
)
def test_the_text_field_is_found(tmp_path: Path, rows: list[dict[str, Any]], field: str) -> None:
    source = _jsonl(tmp_path / "rows.jsonl", rows)
    assert _open(tmp_path, source).reading.text_field == field


def test_records_without_text_are_left_out(tmp_path: Path) -> None:
    rows = [{"text": "one"}, {"text": None}, {}, {"text": "  "}, {"text": "two"}]
    assert _read(tmp_path, _jsonl(tmp_path / "rows.jsonl", rows)) == ["one", "two"]


def _bad(tmp_path: Path, name: str, content: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


GOOD = b'{"text": "good"}\n'


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("broken.jsonl", GOOD * 3 + b'{"text": "bad\n' + GOOD, "line 4"),
        ("cut.jsonl", GOOD * 200 + b'{"text": ', "line 201"),
        ("latin.jsonl", GOOD + b'{"text": "caf\xe9"}\n', "byte 30 (0xe9)"),
        ("number.jsonl", GOOD * 150 + b'{"text": 7}\n', "line 151"),
        ("broken.json", b'[{"text": "a"},\n {"text": oops}]', "line 2"),
        ("cut.json", b'[{"text": "a"}, ', "ends too early"),
        ("latin.json", b'[{"text": "caf\xe9"}]', "byte 14 (0xe9)"),
        ("word.json", b'"text"', "an array or an object is expected"),
        ("number.json", b'[{"text": "a"}' + b', {"text": "a"}' * 200 + b', {"text": 5}]', "record 202"),
        ("wide.csv", b"id,text\n1,fine\n2,not,fine\n", "line 3"),
        ("latin.csv", b"id,text\n1,caf\xe9\n", "byte 13 (0xe9)"),
        ("nul.csv", b"id,text\n1,a\0b\n", "byte 11 is a NUL"),
        ("numbers.jsonl", b'{"a": 1, "b": 2}\n', "a, b"),
        ("not.parquet", b"PAR1 and then nothing of the kind", "not.parquet"),
    ],
)
def test_broken_files_are_named_with_the_place(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    with pytest.raises(DataError) as caught:
        _read(tmp_path, _bad(tmp_path, name, content))
    assert says in f"{caught.value.message}"
    assert name in caught.value.message
    assert caught.value.hint


def test_a_wanted_field_that_is_not_there_lists_those_that_are(tmp_path: Path) -> None:
    pq.write_table(_table(), tmp_path / "rows.parquet")
    for source in (_jsonl(tmp_path / "rows.jsonl", ROWS), _csv(tmp_path / "rows.csv"), tmp_path / "rows.parquet"):
        with pytest.raises(DataError, match="content, id, kind") as caught:
            _read(tmp_path, source, text_field="body")
        assert "'body'" in caught.value.title
        assert _read(tmp_path, source, text_field="kind") == ["story"] * 40
    plain = _bad(tmp_path, "plain.txt", b"words")
    with pytest.raises(DataError, match="no fields"):
        _read(tmp_path, plain, text_field="body")


def test_missing_and_empty_sources_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for source in (tmp_path / "nowhere.txt", _bad(tmp_path, "empty.txt", b""), tmp_path / "folder"):
        with pytest.raises(SpecError) as caught:
            _open(tmp_path, source)
        assert str(source) in caught.value.message
    (tmp_path / "folder" / "empty.jsonl").touch()
    with pytest.raises(DataError, match="empty"):
        _open(tmp_path, tmp_path / "folder")
    pq.write_table(_table()[:0], tmp_path / "no-rows.parquet")
    with pytest.raises(TraindeckError):
        _open(tmp_path, tmp_path / "no-rows.parquet")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    path = _bad(tmp_path, "secret.txt", b"text")
    path.chmod(0)
    with pytest.raises(TraindeckError, match=r"secret\.txt"):
        _open(tmp_path, path)


def test_a_record_without_end_is_refused_before_it_fills_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "LARGEST_RECORD", 10_000)
    monkeypatch.setattr(records, "_BLOCK", 1_000)
    for name, content in (
        ("long.jsonl", GOOD + b'{"text": "' + b"x" * 50_000 + b'"}\n'),
        ("long.json", b'["a", "' + b"x" * 50_000 + b'"]'),
        ("long.csv", b"id,text\n1," + b"x" * 50_000),
    ):
        with pytest.raises(DataError, match="longer than"):
            _read(tmp_path, _bad(tmp_path, name, content))


def test_json_arrays_are_read_through_a_small_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [{"text": '½漢🙂\\" ]}' * number, "n": [number, {"x": None}]} for number in range(50)]
    path = tmp_path / "array.json"
    path.write_text("\ufeff " + json.dumps(expected, ensure_ascii=False) + "\n")
    for block in (1, 2, 3, 7, 64):
        monkeypatch.setattr(records, "_BLOCK", block)
        assert [value for _, value in records.json_items(str(path))] == expected
    path.write_text("[12, 345, 6]")
    monkeypatch.setattr(records, "_BLOCK", 2)
    assert [value for _, value in records.json_items(str(path))] == [12, 345, 6]
    path.write_text("[]")
    assert list(records.json_items(str(path))) == []
