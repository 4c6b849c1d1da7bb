"""From ``DataSpec`` to shards of work, and from a shard to its documents."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from engine.contract.errors import DataError, SpecError
from engine.contract.events import Event
from engine.contract.source import STDLIB, SUFFIXES, SourceKind, files_of, kind_of, source_problems
from engine.contract.spec import DataSpec
from engine.data import columnar, records
from engine.data.fields import EXAMINED, choose_field
from engine.data.shards import (
    Reading,
    Shard,
    Slice,
    byte_slices,
    group,
    line_boundary,
    shard_bytes,
    text_boundary,
)
from engine.data.stdlib import stdlib_files
from engine.data.text import cut_limit, read_text

PLAIN = "(plain strings)"
"""Stands for the field of records that are strings themselves."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A source whose files are found and whose shards are planned."""

    reading: Reading
    files: tuple[Path, ...]
    shards: tuple[Shard, ...]
    description: str

    @property
    def bytes(self) -> int:
        """Of what will be read, for progress; not of the documents."""
        return sum(shard.bytes for shard in self.shards)


def open_source(data: DataSpec, cache: Path, report: Callable[[Event], None]) -> Source:
    """Find the files of a source, how to read them, and how to share the work.

    ``cache`` keeps what is fetched from the hub. Raises DataError or SpecError for what cannot be read.
    """
    kind = kind_of(data)
    if kind is None or (problems := list(source_problems(data))):
        raise SpecError(list(source_problems(data)) if kind is None else problems, "the data")
    if kind == STDLIB:
        files = stdlib_files()
    elif kind == "hub":
        from engine.data.hub import fetch  # noqa: PLC0415 - only what is fetched needs `datasets`

        kind, files = fetch(data, cache, report)
    elif kind == "huggingface-disk":
        files = columnar.saved_files(Path(data.source).expanduser(), data.split)
    else:
        files = _of_kind(files_of(Path(data.source).expanduser()), kind)
    if kind == "json" and all(records.looks_like_lines(file) for file in files):
        kind = "jsonl"
    files = [file.resolve() for file in files if file.stat().st_size]
    for file in files:
        if not os.access(file, os.R_OK):
            raise DataError("A file cannot be read", str(file), "check its permissions")
    if not files:
        raise DataError("There is no text", f"every file of {data.source} is empty", "give another source")
    return _plan(data, kind, files)


def _of_kind(files: list[Path], kind: SourceKind) -> list[Path]:
    """The files whose suffix says that they are of a structured format, or all of them if none does."""
    matching = [file for file in files if SUFFIXES.get(file.suffix.lower()) == kind]
    return matching or files


def _plan(data: DataSpec, kind: SourceKind, files: list[Path]) -> Source:
    total = sum(file.stat().st_size for file in files)
    size = shard_bytes(total)
    slices: list[Slice]
    if kind in (STDLIB, "text"):
        slices = list(byte_slices(files, size, text_boundary))
    elif kind == "jsonl":
        slices = list(byte_slices(files, size, line_boundary))
    elif kind == "parquet":
        slices = list(columnar.parquet_slices(files))
    elif kind == "huggingface-disk":
        slices = list(columnar.arrow_slices(files, size))
    else:
        slices = [Slice(path=str(file), start=0, end=file.stat().st_size, bytes=file.stat().st_size) for file in files]
    if not slices:
        raise DataError("There is no text", f"{data.source} has no rows", "give another source")
    reading = Reading(kind=kind, cut_bytes=cut_limit(total), lenient=kind == STDLIB)
    if kind in (STDLIB, "text"):
        if data.text_field is not None:
            raise DataError(
                f"There is no field {data.text_field!r}",
                f"{data.source} is read as plain text, which has no fields",
                "leave data.text_field out, or set data.format",
            )
    else:
        columns = _first_values(kind, slices[0])
        field = choose_field(data.text_field, columns, f"{Path(slices[0].path).name}")
        reading = msgspec.structs.replace(reading, text_field=field)
    return Source(
        reading=reading,
        files=tuple(files),
        shards=group(slices, size),
        description=_describe(data, kind, files, reading),
    )


def _describe(data: DataSpec, kind: SourceKind, files: list[Path], reading: Reading) -> str:
    if kind == STDLIB:
        return "the standard library of this Python"
    place = data.source if len(files) == 1 else f"{data.source} ({len(files)} files)"
    return f"{place}, field {reading.text_field}" if reading.text_field else place


def _first_values(kind: SourceKind, item: Slice) -> dict[str, list[object]]:
    """Some values of each field; of Parquet and Arrow also the fields that hold no value."""
    columns: dict[str, list[object]] = {}
    if kind in ("parquet", "huggingface-disk"):
        batches = columnar.parquet_batches(item) if kind == "parquet" else columnar.arrow_batches(item)
        for batch in batches:
            for name in batch.schema.names:
                columns[name] = batch.slice(0, EXAMINED).column(batch.schema.names.index(name)).to_pylist()
            break
        return columns
    for number, (_, record) in enumerate(_records(kind, item)):
        if number >= EXAMINED:
            break
        values = record if isinstance(record, dict) else {PLAIN: record}
        for name, value in values.items():
            columns.setdefault(str(name), []).append(value)
    return columns


def _records(kind: SourceKind, item: Slice) -> Iterator[tuple[int, object]]:
    if kind == "jsonl":
        return records.json_lines(item.path, item.start, item.end)
    return records.json_items(item.path) if kind == "json" else records.csv_rows(item.path)


def read_slice(reading: Reading, item: Slice) -> Iterator[str | None]:
    """The documents of a slice, in order; None for a file or record without text. Raises DataError."""
    if reading.kind in (STDLIB, "text"):
        yield from read_text(reading, item)
        return
    field = reading.text_field
    assert field is not None
    if reading.kind in ("parquet", "huggingface-disk"):
        yield from _column(reading.kind, field, item)
        return
    for place, record in _records(reading.kind, item):
        value = record.get(field) if isinstance(record, dict) else record if field == PLAIN else None
        if value is not None and not isinstance(value, str):
            where = f"line {records.line_number(item.path, place)}" if reading.kind == "jsonl" else f"record {place}"
            raise DataError(
                "A field is not text",
                f"{item.path}, {where}: {field!r} holds {type(value).__name__}, not a string",
                "set data.text_field to a field of strings",
            )
        yield value if value and value.strip() else None


def _column(kind: SourceKind, field: str, item: Slice) -> Iterator[str | None]:
    batches = columnar.parquet_batches(item, [field]) if kind == "parquet" else columnar.arrow_batches(item)
    for batch in batches:
        if field not in batch.schema.names:
            raise DataError(
                f"There is no field {field!r}",
                f"{item.path} has the fields: {', '.join(batch.schema.names)}",
                "the files of one source must have the same fields",
            )
        for value in batch.column(batch.schema.names.index(field)).to_pylist():
            if value is not None and not isinstance(value, str):
                raise DataError(
                    "A field is not text", f"{item.path}: {field!r} holds {type(value).__name__}",
                    "set data.text_field to a field of strings",
                )  # fmt: skip
            yield value if value and value.strip() else None


def read_shard(reading: Reading, shard: Shard) -> Iterator[str | None]:
    """The documents of all slices of a shard; see :func:`read_slice`."""
    for item in shard.slices:
        yield from read_slice(reading, item)
