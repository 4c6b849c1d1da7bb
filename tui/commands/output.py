"""What every command does alike: results on standard output, the rest on standard error, and exit codes."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TextIO

import msgspec

from engine.contract.errors import ProfileError, SpecError, TraindeckError
from tui.text import printable

FAILED: Final = 1
USAGE: Final = 2
UNKNOWN_FIT: Final = 2
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141

# What JSON allows inside a string and a terminal may yet act on: DEL, C1 controls, direction overrides.
_SURROGATES = re.compile("[\ud800-\udfff]")
_TERMINAL_CONTROLS = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def emit(value: Any) -> None:
    """Print one JSON object; not finite numbers become null."""
    try:
        encoded = msgspec.json.encode(value)
    except UnicodeEncodeError:  # bytes of arguments, variables and file names that are no text
        encoded = msgspec.json.encode(_encodable(msgspec.to_builtins(value, str_keys=True)))
    text = msgspec.json.format(encoded, indent=2).decode()
    text = _TERMINAL_CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    if not (sys.stdout.encoding or "ascii").lower().startswith("utf"):
        text = json.dumps(json.loads(text), indent=2)
    say(text)


def _encodable(value: Any) -> Any:
    """``value`` with the replacement sign for each lone surrogate, which no encoding of Unicode has."""
    if isinstance(value, str):
        return _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    return [_encodable(item) for item in value] if isinstance(value, (list, tuple)) else value


def say(text: str = "") -> None:
    """Print a result, at once: whoever follows a pipe sees it when it happens."""
    print(text, flush=True)


def tell(result: Any, words: str, *, as_json: bool) -> None:
    """Print what was done: as an object, or in words."""
    if as_json:
        emit(result)
    else:
        say(words)


def note(text: str = "") -> None:
    """Print on standard error what is not the result."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def reporting(*, as_json: bool) -> Iterator[None]:
    """Whatever goes wrong inside is shown as a message and ends the process with its exit code.

    A traceback appears only for a defect, and only where ``TRAINDECK_DEBUG`` asks for it.
    """
    try:
        with _showing(as_json=as_json):
            yield
    except BrokenPipeError:
        close_quietly(sys.stdout, sys.stderr)
        raise SystemExit(PIPE_CLOSED) from None
    except OSError as error:  # of the output itself: all others have been shown
        close_quietly(sys.stdout)
        # Where standard error cannot be written either, the exit code is all that is left to say it with.
        with suppress(OSError):
            note(f"error: the output could not be written: {error.strerror or error}")
        raise SystemExit(FAILED) from None


@contextmanager
def _showing(*, as_json: bool) -> Iterator[None]:
    """As :func:`reporting`, but raises OSError where the output cannot be written."""
    try:
        yield
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except TraindeckError as error:
        raise SystemExit(report(error, as_json=as_json)) from None
    except OSError as error:
        print(end="", flush=True)  # fails again if it was this that failed
        raise SystemExit(report(of_system(error), as_json=as_json)) from None
    except Exception as error:
        # Typer's own exceptions are wrong usage and ordinary ends: it shows them itself.
        if type(error).__module__.partition(".")[0] in {"typer", "click"}:
            if as_json and (usage := of_usage(error)) is not None:
                emit({"error": error_object(usage)})
            raise
        if os.environ.get("TRAINDECK_DEBUG"):
            raise
        raise SystemExit(report(of_defect(error), as_json=as_json)) from None


def report(error: TraindeckError, *, as_json: bool) -> int:
    """Show an error and return the exit code it deserves; with ``--json`` also as an object on stdout."""
    if as_json:
        emit({"error": error_object(error)})
    title = printable(error.title)
    if isinstance(error, SpecError):
        note(f"error: {title}\n{printable(error.message)}")
        return USAGE
    lines = [line for text in (error.message, error.hint) for line in printable(text).splitlines()]
    note("\n".join([f"error: {title}", *(f"  {line}" for line in lines)]))
    return USAGE if isinstance(error, ProfileError) else FAILED


def error_object(error: TraindeckError) -> dict[str, Any]:
    """An error as its JSON object."""
    problems = error.problems if isinstance(error, SpecError) else ()
    return {
        "title": error.title,
        "message": error.message.strip() or None,
        "hint": error.hint or None,
        "problems": msgspec.to_builtins(problems),
    }


def of_system(error: OSError) -> TraindeckError:
    """What the system refused (permissions, a full disk), as an error for a person."""
    place = f"{error.filename}: " if error.filename else ""
    return TraindeckError("The system refused", f"{place}{error.strerror or error}")


def of_usage(error: Exception) -> TraindeckError | None:
    """A command line that Typer refuses; None for its ordinary ends, such as that of ``--help``."""
    words = getattr(error, "format_message", None)
    if words is None:
        return None
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "traindeck"
    return TraindeckError("The command line is wrong", str(words()), f"See: {command} --help")


def of_defect(error: Exception) -> TraindeckError:
    """An exception that nobody foresaw."""
    return TraindeckError(
        "An error inside Traindeck",
        f"{type(error).__name__}: {error}",
        "This is a defect of Traindeck: please report it. TRAINDECK_DEBUG=1 shows where it happened.",
    )


def close_quietly(*streams: TextIO) -> None:
    """After the reader of ``streams`` has gone: what they still hold is dropped, also at exit."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        try:
            os.dup2(nothing, stream.fileno())
        except (OSError, ValueError):  # a stream without a file, as in tests
            continue


def widest(cells: int = 60) -> int:
    """How wide a column of a table may be: without limit where no person but a program reads it."""
    return cells if sys.stdout.isatty() else sys.maxsize


def in_terminal() -> bool:
    """Whether a person sits at both ends."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is destroyed; without a terminal nobody can answer, so ``--yes`` is needed.

    Raises TraindeckError without a terminal, Abort when the answer is no.
    """
    if yes:
        return
    if not in_terminal():
        raise TraindeckError("Nobody can be asked here", question, "Add --yes.")
    import typer  # noqa: PLC0415 - opening the app needs this module and not typer

    typer.confirm(question, abort=True)
