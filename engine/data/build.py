"""Making one prepared folder: tokenizer, parts, joined files, manifest."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np

from engine.contract.durable import DISK_FULL, sync_folder, write_durably
from engine.contract.errors import DataError
from engine.contract.events import Event, Notice, Progress
from engine.contract.spec import RunSpec
from engine.data.assemble import Joined, assemble
from engine.data.cache import CachePlaces, remove_stale
from engine.data.pack import Part, finished_part, token_type
from engine.data.pool import DiskFullError, Pool
from engine.data.prepared import MANIFEST, TOKENIZER, TRAIN, VALIDATION, PreparedManifest
from engine.data.sampling import alphabet, sample_texts
from engine.data.sources import Source
from engine.data.tokenizer import TokenizerFacts, facts_of, load_tokenizer, train_tokenizer
from engine.data.worker import Packed, PackTask, Step

Report = Callable[[Event], None]


def build(spec: RunSpec, source: Source, places: CachePlaces, name: str, report: Report, workers: int) -> None:
    """Make the folder of ``places`` from ``source``, going on with what an earlier try has finished.

    Raises DataError (DiskFullError among them) or OSError; after a full disk or a source that changed meanwhile
    nothing is left behind.
    """
    remove_stale(places.finished.parent)
    seen = _states(source)
    places.parts.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        tokenizer_file = places.building / TOKENIZER
        facts = _tokenizer(spec, source, tokenizer_file, report, workers)
        parts = _pack_all(spec, source, places, tokenizer_file, facts, report, workers)
        joined = _join(spec, places, parts, facts, report)
    except (DiskFullError, OSError) as error:
        if isinstance(error, DiskFullError) or error.errno in DISK_FULL:
            shutil.rmtree(places.building, ignore_errors=True)
        raise
    if _states(source) != seen:
        shutil.rmtree(places.building, ignore_errors=True)
        raise DataError(
            "The data changed while it was read", source.description, "start again when nothing writes to it any more"
        )
    _publish(places, _manifest(name, source, joined, facts, places))


def _states(source: Source) -> list[tuple[int, int]]:
    return [(state.st_size, state.st_mtime_ns) for state in (file.stat() for file in source.files)]


def _tokenizer(spec: RunSpec, source: Source, file: Path, report: Report, workers: int) -> TokenizerFacts:
    """Train or copy the tokenizer, unless a preparation before this one has."""
    if file.is_file():
        return facts_of(load_tokenizer(file))
    if spec.tokenizer.kind == "file":
        tokenizer = load_tokenizer(Path(spec.tokenizer.file or "").expanduser())
    else:
        report(Progress(what="training the tokenizer", done=0, total=None))
        texts: Iterator[str] = iter(())
        characters = ""
        if spec.tokenizer.kind == "characters":
            characters = alphabet(source, spec.data.max_documents, workers, report)
        elif spec.tokenizer.kind != "bytes":
            texts = sample_texts(source, spec.tokenizer.kind, spec.data.max_documents)
        tokenizer = train_tokenizer(spec.tokenizer, texts, characters)
    facts = facts_of(tokenizer)
    if facts.eos_id is None:
        report(
            Notice(
                level="warning",
                message="the given tokenizer has no end-of-document token: documents follow each other directly",
            )
        )
    aside = file.with_suffix(f".{os.getpid()}")
    try:
        tokenizer.save(str(aside))
    except Exception as error:  # the library raises the bare class for a full disk too
        raise OSError(*_system_error(str(error))) from error
    aside.replace(file)
    return facts


def _system_error(text: str) -> tuple[int, str]:
    """The number in ``No space left on device (os error 28)``."""
    number = text.rpartition("os error ")[2].partition(")")[0]
    return (int(number) if number.isdigit() else 5), text


def _pack_all(
    spec: RunSpec, source: Source, places: CachePlaces, tokenizer: Path, facts: TokenizerFacts, report: Report,
    workers: int,
) -> list[Part]:  # fmt: skip
    """All parts in order, the finished ones of an earlier try included; fewer where ``max_documents`` is reached."""
    limit = spec.data.max_documents
    parts: dict[int, Part] = {}
    tasks = []
    for shard in source.shards:
        part = finished_part(places.parts, shard.index, token_type(facts.vocabulary).itemsize)
        if part is not None:
            parts[shard.index] = part
            continue
        tasks.append(
            PackTask(
                reading=source.reading, shard=shard, folder=str(places.parts), tokenizer=str(tokenizer),
                kind=spec.tokenizer.kind, limit=limit,
            )
        )  # fmt: skip
    progress = _Bar("tokenizing", source, report, {shard.index for shard in source.shards if shard.index in parts})
    with Pool(tasks, workers) as pool:
        for number, answer in pool.answers():
            index = tasks[number].shard.index
            if isinstance(answer, Step):
                progress.step(index, answer.bytes)
            elif isinstance(answer, Packed):
                parts[index] = answer.part
                progress.finish(index)
                needed = _needed(parts, limit)
                if needed is not None:
                    pool.cancel(number for number, task in enumerate(tasks) if task.shard.index >= needed)
    count = _needed(parts, limit) or len(source.shards)
    return [parts[index] for index in range(count)]


def _needed(parts: dict[int, Part], limit: int | None) -> int | None:
    """How many leading parts hold ``limit`` documents; None if that is not known to be enough yet."""
    if limit is None:
        return None
    documents = index = 0
    while index in parts:
        documents += parts[index].documents
        index += 1
        if documents >= limit:
            return index
    return None


class _Bar:
    """Progress over all shards, told at most five times a second."""

    def __init__(self, what: str, source: Source, report: Report, done: set[int]) -> None:
        self._what, self._report, self._total = what, report, float(source.bytes)
        self._sizes = {shard.index: shard.bytes for shard in source.shards}
        self._done = {index: self._sizes[index] for index in done}
        self._told = -1.0
        self._tell()

    def step(self, index: int, size: int) -> None:
        # Text may be more than the file was (compressed columns): a shard is never more than whole.
        self._done[index] = min(self._sizes[index], self._done.get(index, 0) + size)
        self._tell()

    def finish(self, index: int) -> None:
        self._done[index] = self._sizes[index]
        self._tell()

    def _tell(self) -> None:
        done = float(sum(self._done.values()))
        now = time.monotonic()
        if now - self._told >= 0.2 or done >= self._total:
            self._told = now
            self._report(Progress(what=self._what, done=done, total=self._total, unit="bytes"))


def _join(spec: RunSpec, places: CachePlaces, parts: list[Part], facts: TokenizerFacts, report: Report) -> Joined:
    shutil.rmtree(places.joined, ignore_errors=True)
    places.joined.mkdir(mode=0o700)
    total, done, told = float(sum(part.bytes for part in parts)), 0.0, 0.0

    def progress(size: int) -> None:
        nonlocal done, told
        done += size
        if time.monotonic() - told >= 0.2 or done == total:
            told = time.monotonic()
            report(Progress(what="writing", done=done, total=total, unit="bytes"))

    return assemble(
        places.parts,
        parts,
        places.joined,
        spec.data.validation_fraction,
        spec.data.max_documents,
        token_type(facts.vocabulary),
        facts.unknown_id,
        progress,
    )


def _manifest(
    name: str, source: Source, joined: Joined, facts: TokenizerFacts, places: CachePlaces
) -> PreparedManifest:
    write_durably(places.joined / TOKENIZER, (places.building / TOKENIZER).read_bytes())
    tokens = joined.train_tokens + joined.validation_tokens
    # A document's end may be the unknown token too, but it is known what it stands for.
    unknown = joined.unknown - (joined.documents if facts.unknown_id == facts.eos_id else 0)
    return PreparedManifest(
        fingerprint=name,
        source=source.description,
        documents=joined.documents,
        bytes=joined.train_bytes + joined.validation_bytes,
        vocabulary=facts.vocabulary,
        train_tokens=joined.train_tokens,
        validation_tokens=joined.validation_tokens,
        train_bytes=joined.train_bytes,
        validation_bytes=joined.validation_bytes,
        unknown_rate=None if facts.unknown_id is None else unknown / max(1, tokens),
        dtype="uint16" if token_type(facts.vocabulary) == np.dtype(np.uint16) else "uint32",
        eos_id=facts.eos_id,
        files={name: (places.joined / name).stat().st_size for name in (TRAIN, VALIDATION, TOKENIZER)},
    )


def _publish(places: CachePlaces, manifest: PreparedManifest) -> None:
    """Write the manifest last and give the folder its name."""
    write_durably(places.joined / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
    shutil.rmtree(places.finished, ignore_errors=True)
    places.joined.rename(places.finished)
    sync_folder(places.finished.parent)
    shutil.rmtree(places.building, ignore_errors=True)
