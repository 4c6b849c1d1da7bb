"""What the short commands of this room have in common: an object on stdout, or an error."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from engine.contract.errors import TraindeckError
from engine.training.failure import describe

Answer = Mapping[str, object]


def answer(
    parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], Answer], plain: Callable[[Answer], str]
) -> int:
    """Run ``work`` with the parsed command line and print what it returns; the exit code.

    With ``--json`` stdout gets one object, ``{"error": {"title", "message", "hint"}}`` when it went wrong; otherwise
    ``plain`` puts the object into words, and errors go to stderr.
    """
    parser.add_argument("--run-dir", type=Path, required=True, help="directory of the run")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    try:
        result = work(arguments)
    except Exception as error:
        report = describe(error, 0)
        if not isinstance(error, TraindeckError):
            print(report.traceback, file=sys.stderr)
        if arguments.json:
            _print_json({"error": {"title": report.title, "message": report.message, "hint": report.hint}})
        else:
            print(f"{report.title}: {report.message}\n{report.hint}", file=sys.stderr)
        return 1
    if arguments.json:
        _print_json(result)
    else:
        print(plain(result))
    return 0


def _print_json(value: Answer) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
