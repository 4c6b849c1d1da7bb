"""Datasets of the Hugging Face hub: fetched through ``datasets`` into its own cache, read from there."""

from __future__ import annotations

import hashlib
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from engine.contract.durable import DISK_FULL
from engine.contract.errors import DataError
from engine.contract.events import Event, Progress
from engine.contract.source import SourceKind
from engine.contract.spec import DataSpec

PROBE_SECONDS = 5.0
_OFFLINE = "HF_HUB_OFFLINE"
_ELSEWHERE = "or give a local file or folder, or python-stdlib"


def fetch(data: DataSpec, cache: Path, report: Callable[[Event], None]) -> tuple[SourceKind, list[Path]]:
    """The files that hold the dataset, fetched if need be, and how they are read.

    With ``max_documents`` only so many rows are streamed, into ``cache``; else all is downloaded once into
    the cache of ``datasets`` (``HF_HOME``). Raises DataError where the hub cannot be reached or has no such dataset.
    """
    name = data.source.removeprefix("hub:")
    spool = cache / "hub" / f"{_key(data)}.jsonl"
    if spool.is_file():
        return "jsonl", [spool]
    report(Progress(what=f"fetching {name}", done=0, total=None))
    _go_offline_if_unreachable()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not sys.stderr.isatty():  # a log is not the place for bars
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    import datasets  # noqa: PLC0415 - seconds to import, and the variables above must be set before

    streamed = data.max_documents is not None
    try:
        found = datasets.load_dataset(name, data.subset, split=data.split, streaming=streamed)
        if not streamed and "[" not in data.split:
            return "huggingface-disk", [Path(entry["filename"]) for entry in found.cache_files]
        _spool(found, data.max_documents, spool, report)
    except Exception as error:
        full = _disk_full(error)
        if full is not None:
            raise full from error
        raise _explained(name, data, error) from error
    return "jsonl", [spool]


def _key(data: DataSpec) -> str:
    parts = (data.source, data.subset, data.split, data.max_documents)
    return hashlib.blake2b(msgspec.json.encode(parts), digest_size=16).hexdigest()


def _go_offline_if_unreachable() -> None:
    """Ask once and briefly whether the hub answers; ``datasets`` itself would try again for half a minute."""
    if os.environ.get(_OFFLINE):
        return
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        request = urllib.request.Request(address, method="HEAD")  # noqa: S310 - the hub, or what the person set
        urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()  # noqa: S310
    except urllib.error.HTTPError:
        return  # whatever it says, it answers
    except (OSError, ValueError):
        os.environ[_OFFLINE] = "1"


def _spool(
    rows: Iterable[Mapping[str, object]], limit: int | None, target: Path, report: Callable[[Event], None]
) -> None:
    """Write the string fields of the first ``limit`` rows to ``target`` as JSON lines, aside first."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = target.with_suffix(f".{os.getpid()}")
    total = None if limit is None else float(limit)
    try:
        with aside.open("wb") as file:
            for number, row in enumerate(rows):
                if number == limit:
                    break
                strings = {name: value for name, value in row.items() if value is None or isinstance(value, str)}
                file.write(msgspec.json.encode(strings) + b"\n")
                if number % 500 == 0:
                    report(Progress(what="fetching documents", done=float(number), total=total))
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def _disk_full(error: BaseException | None) -> OSError | None:
    """The full disk that ``error`` comes from, if it does."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return error
        error = error.__cause__ or error.__context__
    return None


def _explained(name: str, data: DataSpec, error: Exception) -> DataError:
    said = str(error).strip().splitlines()[0][:500] if str(error).strip() else type(error).__name__
    if os.environ.get(_OFFLINE):
        return DataError(
            "The dataset is not on this machine",
            f"{name} is not in the local cache, and the hub cannot be reached ({_OFFLINE} is set, or no network)",
            f"connect and start again, {_ELSEWHERE}",
        )
    kind = type(error).__name__
    if kind in ("DatasetNotFoundError", "RepositoryNotFoundError", "GatedRepoError"):
        return DataError(
            "The hub has no such dataset for you",
            f"{name}: {said}",
            f"check the name; for a private or gated one set HF_TOKEN; {_ELSEWHERE}",
        )
    if isinstance(error, ConnectionError | TimeoutError):
        return DataError("The hub cannot be reached", f"{name}: {said}", f"try again later, {_ELSEWHERE}")
    place = f"data.subset = {data.subset!r}, data.split = {data.split!r}"
    return DataError(
        "The dataset cannot be loaded", f"{name} with {place}: {kind}: {said}", "check data.subset and data.split"
    )
