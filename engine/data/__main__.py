"""``python -P -m engine.data``: prepare the data of a run, or of a spec file."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from engine.contract.durable import write_durably
from engine.contract.errors import DataError, TraindeckError
from engine.contract.events import Event, Failure, Notice, Progress
from engine.contract.journal import Journal
from engine.contract.rundir import RunDirectory
from engine.contract.specfile import read_spec
from engine.data.cache import cache_folder
from engine.data.prepared import PreparedLink, PreparedManifest, open_prepared, read_prepared


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the data is prepared, 1 when it cannot be, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(prog="python -P -m engine.data", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run-dir", type=Path, help="prepare for the run in this directory")
    what.add_argument("--spec", type=Path, help="prepare for this spec file")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a field of the spec")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--force", action="store_true", help="prepare anew what is prepared already")
    parser.add_argument("--workers", type=_count, help="processes that read and encode; one for each core if left out")
    options = parser.parse_args(arguments)
    if options.run_dir is not None:
        return _for_run(RunDirectory(options.run_dir.resolve()), options.workers)
    return _for_spec(options.spec, options.set, options.workers, as_json=options.json, force=options.force)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("it must be 1 or more")
    return number


def _for_run(run: RunDirectory, workers: int | None) -> int:
    if not run.spec.is_file():
        print(f"There is no run in {run.path}: it has no {run.spec.name}", file=sys.stderr)
        return 1
    try:
        with Journal(run.events_of("data")) as journal:

            def report(event: Event) -> None:
                _tell(event)  # the log of the run has it too
                journal.write(event)

            return _failing(lambda: _prepare_or_reuse(run, journal.write, workers), report)
    except OSError as error:  # a full disk, say: then stderr is all that is left to tell it to
        print(f"The events of the run cannot be written: {error}", file=sys.stderr)
        return 1


def _prepare_or_reuse(run: RunDirectory, report: Callable[[Event], None], workers: int | None) -> None:
    from engine.data.prepare import prepare, ready, require_enough  # noqa: PLC0415 - late: see _failing

    spec = read_spec(run.spec)
    if run.prepared.exists():
        try:
            prepared = read_prepared(run)
        except DataError as error:
            report(Notice(level="warning", message=f"{error.title}: it is prepared again"))
        else:
            require_enough(spec, prepared.manifest)
            report(ready(prepared, cached=True))
            return
    folder = prepare(spec, cache_folder(), report, workers)
    link = PreparedLink(directory=str(folder), fingerprint=open_prepared(folder).manifest.fingerprint)
    write_durably(run.prepared, msgspec.json.encode(link) + b"\n")


def _for_spec(file: Path, overrides: Sequence[str], workers: int | None, *, as_json: bool, force: bool) -> int:
    def prepare_and_print() -> None:
        from engine.data.prepare import prepare  # noqa: PLC0415 - late: see _failing

        folder = prepare(read_spec(file, overrides), cache_folder(), _Line(), workers, force)
        print(_summary(folder, as_json))

    return _failing(prepare_and_print, _tell_as_json if as_json else _tell)


def _summary(folder: Path, as_json: bool) -> str:
    manifest: PreparedManifest = open_prepared(folder).manifest
    facts = {
        "documents": manifest.documents,
        "bytes": manifest.bytes,
        "tokens": manifest.train_tokens + manifest.validation_tokens,
        "vocabulary": manifest.vocabulary,
        "train_tokens": manifest.train_tokens,
        "validation_tokens": manifest.validation_tokens,
        "unknown_rate": manifest.unknown_rate,
        "fingerprint": manifest.fingerprint,
        "directory": str(folder),
        "source": manifest.source,
    }
    if as_json:
        return msgspec.json.encode(facts).decode()
    return "\n".join(f"{name:18} {'n/a' if value is None else value}" for name, value in facts.items())


def _tell(event: Event) -> None:
    if isinstance(event, Failure):
        print("\n".join(part for part in (f"{event.title}: {event.message}", event.hint) if part), file=sys.stderr)


def _tell_as_json(event: Event) -> None:
    """A failure as the one JSON object that is printed."""
    if isinstance(event, Failure):
        error = {"title": event.title, "message": event.message, "hint": event.hint}
        print(msgspec.json.encode({"error": error}).decode())


class _Line:
    """Progress on stderr: a line that is written over on a terminal, one for each stage elsewhere."""

    def __init__(self) -> None:
        self._stage = ""
        self._terminal = sys.stderr.isatty()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Notice):
            print(event.message, file=sys.stderr)
        if not isinstance(event, Progress):
            return
        if self._terminal:
            share = f" {event.done / event.total:4.0%}" if event.total else ""
            print(f"\r\x1b[K{event.what}{share}", end="\n" if event.done == event.total else "", file=sys.stderr)
        elif event.what != self._stage:
            print(event.what, file=sys.stderr)
        self._stage = event.what


def _failing(work: Callable[[], None], report: Callable[[Event], None]) -> int:
    """Run ``work``; a failure is reported, printed, and makes the exit code 1.

    ``work`` imports what is heavy itself, so that an installation that lacks something is reported too.
    """
    try:
        work()
    except TraindeckError as error:
        report(Failure(title=error.title, message=error.message, hint=error.hint, exception=type(error).__name__))
    except Exception as error:  # a defect: said in full in the log, in short on the screen
        traceback.print_exc()
        report(
            Failure(
                title="The data could not be prepared", message=str(error) or type(error).__name__,
                hint="the log of the run has the details", exception=type(error).__name__,
            )
        )  # fmt: skip
    else:
        return 0
    return 1


if __name__ == "__main__":
    os.umask(0o077)  # what people train on is nobody else's business
    sys.exit(main())
