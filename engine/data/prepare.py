"""Preparing data for a run: everything from the source to a complete folder in the cache."""

from __future__ import annotations

import os
import time
from pathlib import Path

from engine.contract.durable import DISK_FULL
from engine.contract.errors import DataError
from engine.contract.events import DataReady, Notice, Progress
from engine.contract.spec import RunSpec
from engine.data.batches import sample_count
from engine.data.build import Report, build
from engine.data.cache import CachePlaces
from engine.data.fingerprint import fingerprint
from engine.data.pool import DiskFullError
from engine.data.prepared import MANIFEST, PreparedData, PreparedManifest, open_prepared
from engine.data.sources import open_source


def prepare(spec: RunSpec, cache: Path, report: Report, workers: int | None = None, force: bool = False) -> Path:
    """Prepare the data of ``spec``, or find it prepared, and return its folder in ``cache``.

    ``report`` gets Progress and Notice events on the way and one DataReady at the end. What a killed preparation
    has finished is gone on with; of two that prepare the same at once, one works and the other waits. ``force``
    prepares anew what is there already.
    Raises DataError (SpecError for the spec) for all that can be wrong with data, tokenizer or disk.
    """
    workers = workers or _usable_cores()
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        report(Progress(what="reading the source", done=0, total=None))
        source = open_source(spec.data, cache, report)
        name = fingerprint(source, spec, cache, workers)
        places = CachePlaces(cache, name)
        prepared = None if force else _finished(places)
        cached = prepared is not None
        if prepared is None:
            began = time.time()
            with places.locked(
                lambda seconds: report(Progress(what="waiting for another run", done=seconds, unit="s"))
            ):
                prepared = _finished(places)
                if prepared is None or (force and (places.finished / MANIFEST).stat().st_mtime < began):
                    build(spec, source, places, name, report, workers)
                    prepared = open_prepared(places.finished)
                else:
                    cached = True
    except DiskFullError as error:
        raise _disk_full(cache, error.message) from None
    except OSError as error:
        if error.errno in DISK_FULL:
            raise _disk_full(cache, str(error)) from None
        raise DataError("The data cannot be prepared", str(error), f"check {cache} and the source") from error
    require_enough(spec, prepared.manifest)
    if message := uneven_split(spec, prepared.manifest):
        report(Notice(level="warning", message=message))
    report(ready(prepared, cached))
    return prepared.folder


def ready(prepared: PreparedData, cached: bool) -> DataReady:
    """The event that says that ``prepared`` can be trained on."""
    manifest = prepared.manifest
    return DataReady(
        directory=str(prepared.folder),
        fingerprint=manifest.fingerprint,
        documents=manifest.documents,
        bytes=manifest.bytes,
        vocabulary=manifest.vocabulary,
        train_tokens=manifest.train_tokens,
        validation_tokens=manifest.validation_tokens,
        unknown_rate=manifest.unknown_rate,
        cached=cached,
    )


def uneven_split(spec: RunSpec, manifest: PreparedManifest) -> str | None:
    """What to tell where much more or less text than asked for is held out; None where it is about the share.

    Documents are held out whole and equal ones together, so few or very unequal ones cannot meet every share.
    """
    asked = spec.data.validation_fraction
    share = manifest.validation_bytes / max(1, manifest.bytes)
    if asked / 4 <= share <= 4 * asked or manifest.documents * asked < 1:
        return None
    return (
        f"{share:.1%} of the text is held out for validation, {asked:.1%} was asked for: "
        "the documents are very unequal in size, or many of them are equal"
    )


def require_enough(spec: RunSpec, manifest: PreparedManifest) -> None:
    """Raise DataError where the model has too few embeddings, or a part of the text holds not one sample."""
    if spec.model.vocabulary is not None and spec.model.vocabulary < manifest.vocabulary:
        raise DataError(
            "The model's vocabulary is too small",
            f"the tokenizer has {manifest.vocabulary} ids, but model.vocabulary is {spec.model.vocabulary}",
            f"leave model.vocabulary out, or set it to {manifest.vocabulary} or more",
        )
    length = spec.data.sequence_length
    remedy = {
        "training": "give more text, or shorten data.sequence_length",
        "validation": "give more text, raise data.validation_fraction, or shorten data.sequence_length",
    }
    for part, tokens in (("training", manifest.train_tokens), ("validation", manifest.validation_tokens)):
        if sample_count(tokens, length) == 0:
            raise DataError(
                f"Too little text for one {part} sample",
                f"the {part} part has {tokens} tokens; a sample of data.sequence_length = {length} takes {length + 1}",
                remedy[part],
            )


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _disk_full(cache: Path, message: str) -> DataError:
    return DataError(
        "The disk is full", f"{message}; nothing half done was left in {cache}",
        "free some space, or put TRAINDECK_HOME on another disk",
    )  # fmt: skip


def _finished(places: CachePlaces) -> PreparedData | None:
    """What is there and complete; a damaged folder counts as not there."""
    try:
        return open_prepared(places.finished)
    except DataError:
        return None
