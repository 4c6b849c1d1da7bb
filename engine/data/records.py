"""Records of structured text files: lines of JSON, JSON arrays, CSV.

Every reader is a stream: no more than one record, of at most ``LARGEST_RECORD`` bytes, is held.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from engine.contract.errors import DataError
from engine.data.shards import LARGEST_RECORD
from engine.data.text import decode

_BLOCK = 1 << 20


def json_lines(path: str, start: int, end: int) -> Iterator[tuple[int, object]]:
    """``(offset, value)`` of each line that begins in ``start .. end``; empty lines are passed over.

    Raises DataError naming the line that is not JSON.
    """
    decoder = msgspec.json.Decoder()
    with open(path, "rb") as file:
        file.seek(start)
        offset = start
        while offset < end and (line := file.readline(LARGEST_RECORD + 1)):
            if len(line) > LARGEST_RECORD:
                raise _too_large(path, f"line {line_number(path, offset)}")
            body = line.removeprefix(b"\xef\xbb\xbf") if offset == 0 else line
            if not body.isspace():
                try:
                    yield offset, decoder.decode(body)
                except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                    decode(body, path, offset + len(line) - len(body))  # a wrong encoding says where
                    raise DataError(
                        "A line is not JSON",
                        f"{path}, line {line_number(path, offset)}: {error}",
                        "each line must be one complete JSON object; mend or remove this one",
                    ) from None
            offset += len(line)


def line_number(path: str, offset: int) -> int:
    """The number, from 1, of the line that begins at ``offset``; reads the file up to there."""
    lines = 0
    with open(path, "rb") as file:
        while offset > 0 and (block := file.read(min(_BLOCK, offset))):
            lines += block.count(b"\n")
            offset -= len(block)
    return lines + 1


def json_items(path: str) -> Iterator[tuple[int, object]]:
    """``(number from 1, value)`` of each element of the array in a ``.json`` file.

    The array is the whole of it, or the first list in an object (``{"version": 1, "data": [...]}``); an object of
    anything else is one record. Raises DataError with the place where it is not JSON.
    """
    with open(path, "rb") as file:
        stream = _JsonStream(path, file)
        opening = stream.peek()
        if opening == "{":
            stream.take()
            record: dict[str, object] = {}
            while stream.peek() != "}":
                key = stream.value()
                stream.expect(":")
                if stream.peek() == "[":
                    stream.take()
                    yield from _elements(stream)
                    return
                record[str(key)] = stream.value()
                if stream.peek() != "}":
                    stream.expect(",")
            yield 1, record
        elif opening == "[":
            stream.take()
            yield from _elements(stream)
        else:
            raise stream.broken("an array or an object is expected")


def _elements(stream: _JsonStream) -> Iterator[tuple[int, object]]:
    number = 0
    if stream.peek() == "]":
        return
    while True:
        number += 1
        yield number, stream.value()
        if stream.peek() == "]":
            return
        stream.expect(",")


class _JsonStream:
    """Values of a JSON file one after the other through a sliding window."""

    def __init__(self, path: str, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._decoder = json.JSONDecoder()
        self._text = ""
        self._place = 0
        self._consumed = 0
        """Bytes before the window."""
        self._undecoded = b""
        self._ended = False
        while not self._text and not self._ended:
            self._more(_BLOCK)
        self._text = self._text.removeprefix("\ufeff")

    def _more(self, size: int) -> None:
        block = self._undecoded + self._file.read(size)
        self._ended = len(block) - len(self._undecoded) < size
        keep = 0 if self._ended else _unfinished(block)
        whole, self._undecoded = block[: len(block) - keep], block[len(block) - keep :]
        before = self._text[: self._place]
        offset = self._consumed + len(self._text.encode())
        self._consumed += len(before.encode())
        self._text = self._text[self._place :] + decode(whole, self._path, offset)
        self._place = 0

    def peek(self) -> str:
        """The next character that is not white space; it stays."""
        while True:
            while self._place < len(self._text):
                if self._text[self._place] not in " \t\r\n":
                    return self._text[self._place]
                self._place += 1
            if self._ended:
                raise self.broken("the file ends too early")
            self._more(_BLOCK)

    def take(self) -> None:
        self._place += 1

    def expect(self, sign: str) -> None:
        if self.peek() != sign:
            raise self.broken(f"{sign!r} is expected")
        self._place += 1

    def value(self) -> object:
        self.peek()
        size = _BLOCK
        while True:
            try:
                result, end = self._decoder.raw_decode(self._text, self._place)
            except (json.JSONDecodeError, RecursionError) as error:
                if self._ended:
                    raise self.broken(str(error).partition(": line")[0]) from None
            else:
                if end < len(self._text) or self._ended:  # a number may go on in the next block
                    self._place = end
                    value: object = result
                    return value
            if len(self._text) - self._place > LARGEST_RECORD:
                raise _too_large(self._path, f"the record at byte {self._consumed}")
            self._more(size)
            size *= 2

    def broken(self, why: str) -> DataError:
        offset = self._consumed + len(self._text[: self._place].encode())
        return DataError(
            "A file is not JSON",
            f"{self._path}, line {line_number(self._path, offset)}, byte {offset}: {why}",
            'mend it, or set data.format = "jsonl" if each line is an object',
        )


def _unfinished(block: bytes) -> int:
    """Bytes at the end of ``block`` that begin a character whose rest is still to come."""
    for back in range(1, min(4, len(block)) + 1):
        byte = block[-back]
        if byte & 0xC0 != 0x80:
            length = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if length > back else 0
    return 0


def looks_like_lines(path: Path) -> bool:
    """Whether a ``.json`` file holds one object on each line, as many published ones do."""
    with path.open("rb") as file:
        first = file.readline(_BLOCK).removeprefix(b"\xef\xbb\xbf").strip()
        second = file.readline(_BLOCK).strip()
    try:
        return isinstance(msgspec.json.decode(first), dict) and second.startswith(b"{")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def csv_rows(path: str) -> Iterator[tuple[int, dict[str, str]]]:
    """``(line, row)`` of a CSV file with a heading, separated by comma, or by the tab or semicolon of its heading.

    Raises DataError naming the line that cannot be read.
    """
    csv.field_size_limit(LARGEST_RECORD)
    with open(path, "rb") as file:
        heading = decode(file.readline(_BLOCK).removeprefix(b"\xef\xbb\xbf"), path, 0)
    counts = {sign: heading.count(sign) for sign in (",", "\t", ";")}
    delimiter = "\t" if path.lower().endswith(".tsv") else max(counts, key=lambda sign: counts[sign])
    reader = csv.reader(_text_lines(path), delimiter=delimiter, strict=False)
    try:
        names = next(reader, [])
        for row in reader:
            if len(row) > len(names):
                raise DataError(
                    "A row has too many fields",
                    f"{path}, line {reader.line_num}: {len(row)} fields, but the heading names {len(names)}",
                    'quote fields that hold the separator or a line end: "like, this"',
                )
            if row:
                yield reader.line_num, dict(zip(names, row, strict=False))
    except csv.Error as error:
        raise DataError(
            "A CSV file is broken", f"{path}, line {reader.line_num}: {error}", "mend the line, or its quotes"
        ) from None


def _text_lines(path: str) -> Iterator[str]:
    offset = 0
    with open(path, "rb") as file:
        while line := file.readline(LARGEST_RECORD + 1):
            if len(line) > LARGEST_RECORD:
                raise _too_large(path, f"the line at byte {offset}")
            if b"\0" in line:
                raise DataError(
                    "A file is not text", f"{path}: byte {offset + line.index(0)} is a NUL", "give a CSV file"
                )
            body = line.removeprefix(b"\xef\xbb\xbf") if offset == 0 else line
            yield decode(body, path, offset + len(line) - len(body))
            offset += len(line)


def _too_large(path: str, where: str) -> DataError:
    return DataError(
        "A record is too large",
        f"{path}: {where} is longer than {LARGEST_RECORD >> 20} MiB",
        'is it of this format? For plain text set data.format = "text"',
    )
