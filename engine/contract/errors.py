"""What can be wrong, said so that a person knows what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import msgspec


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong with a spec, tied to the field that a person would change."""

    field: str
    """Dotted name of the field, as ``--set`` takes it: ``model.heads``. Empty for the whole."""
    message: str
    """What is wrong, with the offending value in it."""
    hint: str = ""
    """What to do about it."""

    def __str__(self) -> str:
        place = f"{self.field}: " if self.field else ""
        return f"{place}{self.message}" + (f" ({self.hint})" if self.hint else "")


def nearest(name: str, choices: list[str]) -> str:
    """A hint that names the closest of ``choices``, or lists them all when none is close."""
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else "choose from " + ", ".join(sorted(choices))


class TraindeckError(Exception):
    """An error that is shown to a person: a title, what happened, and what to do.

    Everything that the program can foresee is raised as this class or a subclass; the command line
    prints it to stderr and the app shows it as a dialog. Any other exception is a defect.
    """

    def __init__(self, title: str, message: str = "", hint: str = "") -> None:
        super().__init__(title, message, hint)
        self.title = title
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.title}: {self.message}" if self.message else self.title
        return f"{text}\n{self.hint}" if self.hint else text


class SpecError(TraindeckError):
    """A spec that cannot be run, with every problem that it has."""

    def __init__(self, problems: Sequence[Problem], origin: str = "the spec") -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        super().__init__(
            f"{count} problem{'s' if count != 1 else ''} in {origin}",
            "\n".join(f"  {problem}" for problem in self.problems),
        )

    def __str__(self) -> str:
        return f"{self.title}\n{self.message}"


class DataError(TraindeckError):
    """Training data that cannot be read or is not what the spec says it is."""


class ModelError(TraindeckError):
    """Weights that are missing, damaged, or of a network that is not ours; a network that a format cannot hold."""


class CheckpointError(TraindeckError):
    """A checkpoint that is missing, damaged, or of another model."""


class RunError(TraindeckError):
    """A run that does not exist, is not ours, or is in the wrong state for a request."""


class ProfileError(TraindeckError):
    """A profile that does not exist, is broken, or would overwrite another."""
