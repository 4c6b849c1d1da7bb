"""Parquet files and the Arrow files of ``datasets.save_to_disk``, read column by column and batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from engine.contract.errors import DataError
from engine.data.shards import Slice

if TYPE_CHECKING:
    import pyarrow as pa

_T = TypeVar("_T")
_ROWS = 256


def parquet_slices(files: Iterable[Path]) -> Iterator[Slice]:
    """One slice for each row group."""
    import pyarrow.parquet as pq  # noqa: PLC0415 - pyarrow only where it is needed

    for path in files:
        with _readable(path, "Parquet"), pq.ParquetFile(path) as file:
            for group in range(file.metadata.num_row_groups):
                size = file.metadata.row_group(group).total_byte_size
                yield Slice(path=str(path), start=group, end=group + 1, bytes=max(1, size))


def parquet_batches(item: Slice, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of some row groups in small batches."""
    import pyarrow.parquet as pq  # noqa: PLC0415

    with _readable(Path(item.path), "Parquet"), pq.ParquetFile(item.path, pre_buffer=False) as file:
        groups = list(range(item.start, item.end))
        yield from file.iter_batches(batch_size=_ROWS, row_groups=groups, columns=columns, use_threads=False)


def arrow_slices(files: Iterable[Path], size: int) -> Iterator[Slice]:
    """Slices of consecutive record batches of about ``size`` bytes."""
    for path in files:
        start, held, number = 0, 0, 0
        for number, batch in enumerate(_arrow_stream(path), start=1):
            held += max(1, batch.nbytes)
            if held >= size:
                yield Slice(path=str(path), start=start, end=number, bytes=held)
                start, held = number, 0
        if held:
            yield Slice(path=str(path), start=start, end=number, bytes=held)


def arrow_batches(item: Slice) -> Iterator[pa.RecordBatch]:
    """The record batches of one slice in small pieces."""
    for number, batch in enumerate(_arrow_stream(Path(item.path))):
        if number >= item.end:
            return
        if number >= item.start:
            yield from (batch.slice(row, _ROWS) for row in range(0, batch.num_rows, _ROWS))


def _arrow_stream(path: Path) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa  # noqa: PLC0415

    with _readable(path, "Arrow"), pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
        yield from stream


class _readable:  # noqa: N801 - reads as a clause of `with`
    """Says which file it was that pyarrow could not read."""

    def __init__(self, path: Path, kind: str) -> None:
        self._path = path
        self._kind = kind

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        import pyarrow as pa  # noqa: PLC0415

        # What is damaged inside a file comes as an OSError without a system error number.
        if isinstance(error, pa.ArrowException) or (isinstance(error, OSError) and error.errno is None):
            raise DataError(
                f"A file is not {self._kind}",
                f"{self._path}: {error}",
                "it may be cut short or of another format; write or download it again",
            ) from None


class _SavedState(msgspec.Struct):
    """``state.json`` of ``datasets.Dataset.save_to_disk``."""

    data_files: list[dict[str, str]] = msgspec.field(name="_data_files", default_factory=list)


class _SavedSplits(msgspec.Struct):
    """``dataset_dict.json`` of ``datasets.DatasetDict.save_to_disk``."""

    splits: list[str]


def saved_files(folder: Path, split: str) -> list[Path]:
    """The Arrow files of a ``save_to_disk`` folder, in order; of ``split`` where it holds several.

    Raises DataError where the folder is not one, or has no such split.
    """
    if (folder / "dataset_dict.json").exists():
        splits = _decode(folder / "dataset_dict.json", _SavedSplits).splits
        if split not in splits:
            raise DataError(
                f"There is no split {split!r}", f"{folder} has the splits: {', '.join(splits)}", "set data.split to one"
            )
        folder = folder / split
    if not (folder / "state.json").is_file():
        raise DataError(
            "A folder is not a saved dataset", f"{folder} has no state.json", "give the folder that save_to_disk wrote"
        )
    files = [folder / Path(entry["filename"]).name for entry in _decode(folder / "state.json", _SavedState).data_files]
    for file in files:
        if not file.is_file():
            raise DataError("A saved dataset is incomplete", f"{file} is missing", "save or copy the dataset again")
    return files


def _decode(path: Path, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError("A saved dataset is damaged", f"{path}: {error}", "save or copy the dataset again") from None
