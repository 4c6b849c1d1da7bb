"""Plain text: checking that it is text, and cutting it into documents."""

from __future__ import annotations

from collections.abc import Iterator

from engine.contract.errors import DataError
from engine.data.shards import Reading, Slice

END_OF_TEXT = b"<|endoftext|>"
"""What many published corpora write between documents (Radford et al. 2019); never part of one."""
LARGEST_PIECE = 64 << 10
"""Bytes of a document that was cut out of a larger file."""
SMALLEST_CUT = 2 << 10
LARGEST_WHOLE = 1 << 20
_BOM = b"\xef\xbb\xbf"
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"\xff\xfe", "UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW"),
    (b"\xfe\xff", "UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW"),
    (b"\x1f\x8b", "a gzip file", "decompress it first: gunzip -k FILE"),
    (b"\x28\xb5\x2f\xfd", "a zstandard file", "decompress it first: zstd -dk FILE"),
    (b"BZh", "a bzip2 file", "decompress it first: bunzip2 -k FILE"),
    (b"\xfd7zXZ\x00", "an xz file", "decompress it first: unxz -k FILE"),
    (b"PK\x03\x04", "a zip file", "unpack it first: unzip FILE"),
    (b"%PDF", "a PDF file", "extract its text first: pdftotext FILE"),
    (b"PAR1", "a Parquet file", 'give it the suffix .parquet, or set data.format = "parquet"'),
    (b"ARROW1", "an Arrow file", "give the folder that save_to_disk wrote"),
    (b"\x7fELF", "a program", "give text files"),
    (b"\x89PNG", "a PNG picture", "give text files"),
)


def cut_limit(total_bytes: int) -> int:
    """Files above this many bytes are cut: so that even one file gives about 64 documents to split.

    Files up to 1 MiB stay whole in a large collection.
    """
    return min(LARGEST_WHOLE, max(SMALLEST_CUT, total_bytes // 64))


def read_text(reading: Reading, item: Slice) -> Iterator[str | None]:
    """The documents of one slice of a text file; None stands for a file that was left out.

    Raises DataError for a file that is not UTF-8 text, with the byte where it stops being so.
    """
    with open(item.path, "rb") as file:
        file.seek(item.start)
        block = file.read(item.end - item.start)
    whole = item.start == 0
    if whole and block.startswith(_BOM):
        block, shift = block[len(_BOM) :], len(_BOM)
    else:
        shift = 0
    try:
        _refuse_binary(block, item, item.start + shift)
        texts = [
            decode(piece, item.path, item.start + shift + offset)
            for offset, piece in cut(block, reading.cut_bytes, min(reading.cut_bytes, LARGEST_PIECE))
        ]
    except DataError:
        if not reading.lenient:
            raise
        yield None
        return
    yield from (text for text in texts if text.strip())


def cut(block: bytes, whole_bytes: int, piece_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Documents of a block of UTF-8 as ``(offset, bytes)``.

    End-of-text marks separate documents; one above ``whole_bytes`` is cut into pieces of at most ``piece_bytes``
    at the last paragraph, else line, else space, else character that leaves a piece at least a quarter full.
    """
    start = 0
    while start <= len(block):
        mark = block.find(END_OF_TEXT, start)
        end = len(block) if mark < 0 else mark
        if end - start <= whole_bytes:
            yield start, block[start:end]
        else:
            yield from _pieces(block, start, end, piece_bytes)
        if mark < 0:
            return
        start = mark + len(END_OF_TEXT)


def _pieces(block: bytes, start: int, end: int, size: int) -> Iterator[tuple[int, bytes]]:
    while end - start > size:
        place = start + size
        for mark in (b"\n\n", b"\n", b" "):
            found = block.rfind(mark, start + size // 4, start + size)
            if found >= 0:
                place = found + len(mark)
                break
        else:
            while place > start + 1 and block[place] & 0xC0 == 0x80:  # never inside a character
                place -= 1
        yield start, block[start:place]
        start = place
    yield start, block[start:end]


def decode(piece: bytes, path: str, offset: int) -> str:
    """``piece`` as text; raises DataError that names ``path`` and the byte, ``offset`` being that of the piece."""
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            "A file is not UTF-8",
            f"{path}: byte {offset + error.start} (0x{piece[error.start]:02x}) is not valid UTF-8",
            "convert it, for example: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW"
            " (GB18030, SHIFT_JIS, KOI8-R ... for other scripts)",
        ) from None


def _refuse_binary(block: bytes, item: Slice, offset: int) -> None:
    if item.start == 0:
        for signature, name, hint in _SIGNATURES:
            if block.startswith(signature):
                raise DataError("A file is not text", f"{item.path} is {name}", hint)
    place = block.find(b"\0")
    if place >= 0:
        raise DataError(
            "A file is not text",
            f"{item.path}: byte {offset + place} is a NUL, which text never holds",
            "give text files, or set data.format if it is a structured one",
        )
