"""Which field of a structured source holds the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.contract.errors import DataError

CUSTOMARY = (
    "text", "content", "body", "document", "article", "raw_content", "page_content", "story", "passage", "markdown",
    "code", "paragraph", "sentence", "review", "comment", "message", "description", "abstract",
)  # fmt: skip
"""Names under which published datasets keep their text, the commonest first."""
EXAMINED = 100
"""Records looked at to find the field."""


def choose_field(wanted: str | None, columns: Mapping[str, Sequence[object]], source: str) -> str:
    """The field to read: ``wanted``, else a customary name, else the string field with the longest mean.

    ``columns`` holds some values of each field. Raises DataError that lists the fields where ``wanted`` is not one of
    them, or where none holds strings.
    """
    lengths = {name: mean for name, values in columns.items() if (mean := _mean_length(values)) is not None}
    listed = ", ".join(sorted(columns)) or "none"
    if wanted is not None:
        if wanted not in columns:
            raise DataError(
                f"There is no field {wanted!r}",
                f"{source} has the fields: {listed}",
                "set data.text_field to one of them",
            )
        if wanted not in lengths:
            raise DataError(
                f"The field {wanted!r} holds no text",
                f"the fields of {source} that hold text: {', '.join(sorted(lengths)) or 'none'}",
                "set data.text_field to one of them",
            )
        return wanted
    by_lower = {name.lower(): name for name in lengths}
    for name in CUSTOMARY:
        if name in by_lower:
            return by_lower[name]
    if not lengths:
        raise DataError(
            "No field holds text", f"{source} has the fields: {listed}", "give data with a field of strings"
        )
    return max(lengths, key=lambda name: (lengths[name], name))


def _mean_length(values: Sequence[object]) -> float | None:
    """Mean length of the strings; None where there is none or something else than strings and nulls."""
    strings = [value for value in values if isinstance(value, str)]
    if not strings or any(value is not None and not isinstance(value, str) for value in values):
        return None
    return sum(map(len, strings)) / len(strings)
