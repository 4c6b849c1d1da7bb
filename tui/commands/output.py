"""What every command does alike: results on standard output, the rest on standard error, and exit codes."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from engine.contract.errors import ProfileError, SpecError, TraindeckError
from tui.text import printable

FAILED: Final = 1
USAGE: Final = 2
UNKNOWN_FIT: Final = 2
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141

# What JSON allows inside a string and a terminal may yet act on: DEL, C1 controls, direction overrides.
_TERMINAL_CONTROLS = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def emit(value: Any) -> None:
    """Print one JSON object; not finite numbers become null."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    text = _TERMINAL_CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    if not (sys.stdout.encoding or "ascii").lower().startswith("utf"):
        text = json.dumps(json.loads(text), indent=2)
    say(text)


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
        yield
    except BrokenPipeError:
        close_quietly()
        raise SystemExit(PIPE_CLOSED) from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except TraindeckError as error:
        raise SystemExit(report(error, as_json=as_json)) from None
    except OSError as error:
        raise SystemExit(report(of_system(error), as_json=as_json)) from None
    except Exception as error:
        # Typer's own exceptions are wrong usage and ordinary ends: it shows them itself.
        if type(error).__module__.partition(".")[0] in {"typer", "click"} or os.environ.get("TRAINDECK_DEBUG"):
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


def of_defect(error: Exception) -> TraindeckError:
    """An exception that nobody foresaw."""
    return TraindeckError(
        "An error inside Traindeck",
        f"{type(error).__name__}: {error}",
        "This is a defect of Traindeck: please report it. TRAINDECK_DEBUG=1 shows where it happened.",
    )


def close_quietly() -> None:
    """After the reader of our output has gone: nothing more can be said, not even at exit."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(nothing, stream.fileno())
        except (OSError, ValueError):  # a stream without a file, as in tests
            continue


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
