from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.contract.errors import DataError
from engine.data.shards import Reading, Slice, byte_slices, group, line_boundary, text_boundary
from engine.data.text import END_OF_TEXT, cut, cut_limit, decode, read_text


def _read(path: Path, cut_bytes: int = 64 << 10, lenient: bool = False) -> list[str | None]:
    size = path.stat().st_size
    reading = Reading(kind="text", cut_bytes=cut_bytes, lenient=lenient)
    return list(read_text(reading, Slice(path=str(path), start=0, end=size, bytes=size)))


@given(text=st.text(alphabet=st.sampled_from("ab é漢🙂\n "), max_size=3000), size=st.integers(8, 200))
def test_cutting_loses_nothing_and_no_piece_is_too_long(text: str, size: int) -> None:
    block = text.encode()
    pieces = list(cut(block, size, size))
    assert b"".join(piece for _, piece in pieces) == block
    assert all(len(piece) <= size for _, piece in pieces)
    assert all(block[start : start + len(piece)] == piece for start, piece in pieces)
    assert "".join(piece.decode() for _, piece in pieces) == text  # never inside a character


def test_cuts_are_at_paragraphs_then_lines_then_spaces() -> None:
    assert [piece for _, piece in cut(b"aaaa\nbbb\n\ncccc dddd", 12, 12)] == [b"aaaa\nbbb\n\n", b"cccc dddd"]
    assert [piece for _, piece in cut(b"aaaa bbb\ncccc dddd", 12, 12)] == [b"aaaa bbb\n", b"cccc dddd"]
    assert [piece for _, piece in cut(b"aaaa bbbb cccc dddd", 12, 12)] == [b"aaaa bbbb ", b"cccc dddd"]
    assert [len(piece) for _, piece in cut(b"x" * 30, 12, 12)] == [12, 12, 6]


def test_end_of_text_marks_separate_documents(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_bytes(b"one" + END_OF_TEXT + b"\ntwo" + END_OF_TEXT + b" \n" + END_OF_TEXT + b"three")
    assert _read(path) == ["one", "\ntwo", "three"]


def test_a_single_file_becomes_many_documents() -> None:
    assert cut_limit(1_100_000) == 1_100_000 // 64
    assert cut_limit(500) == 2048
    assert cut_limit(10**12) == 1 << 20


def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "bom.txt"
    path.write_bytes(b"\xef\xbb\xbfhello")
    assert _read(path) == ["hello"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"caf\xe9 au lait", "byte 3 (0xe9) is not valid UTF-8"),
        (b"\xef\xbb\xbfcaf\xe9", "byte 6 (0xe9)"),
        (b"a\n" * 3000 + b"\xff tail", "byte 6000 (0xff)"),
        (b"abc\0def", "byte 3 is a NUL"),
        ("hello".encode("utf-16"), "UTF-16"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"PK\x03\x04....", "zip"),
        (b"%PDF-1.7 ....", "PDF"),
    ],
)
def test_what_is_not_utf8_text_is_refused_with_the_place(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "file.txt"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        _read(path, cut_bytes=2048)
    assert says in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert _read(path, lenient=True) == [None]


def test_decode_counts_from_the_start_of_the_file() -> None:
    with pytest.raises(DataError, match="byte 1003"):
        decode(b"abc\xff", "f", 1000)


@settings(max_examples=60)
@given(lines=st.lists(st.text(alphabet="xé漢🙂 ", max_size=40), max_size=60), size=st.integers(10, 300))
def test_slices_cover_a_file_and_cut_only_where_allowed(tmp_path_factory: pytest.TempPathFactory, lines, size) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("slices") / "file"
    content = "\n".join(lines).encode()
    path.write_bytes(content)
    for boundary in (text_boundary, line_boundary):
        slices = list(byte_slices([path], size, boundary))
        assert b"".join(content[item.start : item.end] for item in slices) == content
        for item in slices:
            content[item.start : item.end].decode()
            if boundary is line_boundary and item.end < len(content):
                assert content[item.end - 1 : item.end] == b"\n"


def test_a_huge_line_is_cut_between_characters(tmp_path: Path) -> None:
    path = tmp_path / "line.txt"
    path.write_text("漢" * 100_000)
    slices = list(byte_slices([path], 50_000, text_boundary))
    assert len(slices) >= 5
    documents = [
        text for item in slices for text in read_text(Reading(kind="text", cut_bytes=4096), item) if text is not None
    ]
    assert "".join(documents) == "漢" * 100_000
    assert max(len(text.encode()) for text in documents) <= 4096


def test_small_files_share_a_shard() -> None:
    slices = [Slice(path=str(number), start=0, end=4, bytes=4) for number in range(5)]
    shards = group(slices, 10)
    assert [len(shard.slices) for shard in shards] == [2, 2, 1]
    assert [shard.index for shard in shards] == [0, 1, 2]
    assert shards[0].bytes == 8
