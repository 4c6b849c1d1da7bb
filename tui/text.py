"""Numbers, times, states and foreign text as people read them; shared by the commands and the screens.

Everything but the question for Unicode is pure, and all of it needs the standard library alone. Unknown is
``None`` and reads ``n/a``.
"""

from __future__ import annotations

import locale
import math
import os
import sys
import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

UNKNOWN = "n/a"

STATE_SYMBOLS: dict[str, str] = {
    "queued": "○", "starting": "◔", "running": "●", "pausing": "◫", "paused": "‖", "stopping": "◪",
    "finished": "✓", "failed": "✗", "lost": "?",
}  # fmt: skip
"""One cell each, so that a state is told without its colour."""
ASCII_STATE_SYMBOLS: dict[str, str] = {
    "queued": ".", "starting": "~", "running": ">", "pausing": ":", "paused": "=", "stopping": "-",
    "finished": "+", "failed": "x", "lost": "?",
}  # fmt: skip

_BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_COUNT_UNITS = ("", "K", "M", "B", "T")


def human_bytes(count: float | None) -> str:
    """Bytes in powers of 1024: ``1.5 GiB``."""
    if count is None or not math.isfinite(count):
        return UNKNOWN
    size = float(abs(count))
    unit = 0
    while size >= 1023.95 and unit < len(_BYTE_UNITS) - 1:
        size /= 1024
        unit += 1
    number = f"{size:.0f}" if unit == 0 or size >= 99.95 else f"{size:.1f}"
    return f"{'-' if count < 0 else ''}{number} {_BYTE_UNITS[unit]}"


def human_count(count: float | None) -> str:
    """A count in powers of 1000 with three significant digits: ``3.31 M``; below 10,000 in full."""
    if count is None or not math.isfinite(count):
        return UNKNOWN
    size = float(abs(count))
    sign = "-" if count < 0 else ""
    if size < 10_000:
        return f"{sign}{size:,.0f}"
    unit = 0
    while size >= 999.5 and unit < len(_COUNT_UNITS) - 1:
        size /= 1000
        unit += 1
    digits = 2 if size < 9.995 else 1 if size < 99.95 else 0
    return f"{sign}{size:.{digits}f} {_COUNT_UNITS[unit]}"


def human_duration(seconds: float | None) -> str:
    """A time span in its two largest units: ``4 min 05 s``, ``2 h 03 min``, ``3 d 4 h``."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    if seconds < 0:
        return f"-{human_duration(-seconds)}"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def short_duration(seconds: float | None, *, coarse: bool = False, even: bool = False) -> str:
    """A time span in at most seven cells: ``4m05s``, ``2h03m``.

    ``coarse`` keeps the first unit only; ``even`` leaves a second unit of none out, as on an axis: ``0.5s``, ``4m``.
    """
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{seconds:.3g}s" if even else f"{whole}s"
    for most, unit, part, name, part_name in ((3600, 60, 1, "m", "s"), (86_400, 3600, 60, "h", "m")):
        if whole < most:
            rest = whole % unit // part
            first = f"{whole // unit}{name}"
            return first if coarse or (even and not rest) else f"{first}{rest:02d}{part_name}"
    days, hours = whole // 86_400, whole % 86_400 // 3600
    return f"{days}d" if coarse or days > 999 or (even and not hours) else f"{days}d{hours:02d}h"


def human_number(value: float | None, digits: int = 4) -> str:
    """A measurement with ``digits`` significant digits: a loss, a learning rate, a norm."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value == 0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    if not -3 <= decimals <= digits + 2:
        mantissa, _, exponent = f"{value:.{max(0, digits - 1)}e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"
    return f"{value:,.{max(0, decimals)}f}"


def human_fraction(fraction: float | None) -> str:
    """A share from 0 to 1 as ``87 %``."""
    if fraction is None or not math.isfinite(fraction):
        return UNKNOWN
    return f"{fraction * 100:.0f} %"


def human_unit(value: float | None, unit: str) -> str:
    """A whole number with its unit: ``63 °C``, ``250 W``."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return f"{value:.0f} {unit}"


def human_time(epoch_seconds: float | None) -> str:
    """A moment in local time, to the second."""
    if epoch_seconds is None:
        return UNKNOWN
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(epoch_seconds))
    except (OverflowError, ValueError, OSError):  # a time that no calendar has, from a damaged file
        return UNKNOWN


_REASONS = {
    "max_seconds": "the time is used up", "max_steps": "all steps are done", "max_tokens": "all tokens are used",
    "max_epochs": "all epochs are done", "requested": "",
}  # fmt: skip


def reason_words(state: str, reason: str) -> str:
    """Why a run is in ``state``, in words; empty where the state says it all. An error's own words stay."""
    return reason if state in {"failed", "lost"} else _REASONS.get(reason, reason)


def state_symbol(state: str, *, ascii_only: bool = False) -> str:
    """The sign of a run's state; ``?`` for one that this version does not know."""
    return (ASCII_STATE_SYMBOLS if ascii_only else STATE_SYMBOLS).get(state, "?")


def ascii_wanted(environment: Mapping[str, str] | None = None, *, encoding: str | None = None) -> bool:
    """Whether to keep to ASCII: ``TRAINDECK_ASCII`` says so, or the encoding (the locale's) is no form of Unicode."""
    told = (os.environ if environment is None else environment).get("TRAINDECK_ASCII", "")
    if told:
        return told.lower() not in {"0", "no", "false"}
    encoding = encoding or locale.getpreferredencoding(do_setlocale=False)
    return not encoding.lower().startswith(("utf", "ucs"))


def shows_unicode(stream: TextIO | None = None) -> bool:
    """Whether ``stream`` (standard output) may get signs beyond ASCII."""
    return not ascii_wanted(encoding=getattr(stream or sys.stdout, "encoding", None) or "ascii")


def printable(text: str, *, newlines: bool = True) -> str:
    """``text`` without anything that a terminal would act on.

    Escape and other control characters become their visible pictures, direction overrides and lone
    surrogates the replacement sign; tabs become spaces. Line ends stay unless ``newlines`` is false: then
    they become ``⏎``.
    """
    if text.isascii() and text.isprintable():
        return text
    text = text.replace("\r\n", "\n")
    return "".join(_neutral(character, newlines) for character in text)


_JOINERS = frozenset("\u200c\u200d\ufe0f")
_LINE_ENDS = frozenset("\n\u2028\u2029\x85")


def _neutral(character: str, newlines: bool) -> str:
    code = ord(character)
    if character in _LINE_ENDS:
        return "\n" if newlines else "⏎"
    if character == "\t":
        return "    "
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    if unicodedata.category(character) in {"Cc", "Cf", "Cs"} and character not in _JOINERS:
        return "\N{REPLACEMENT CHARACTER}"
    return character


def cell_width(text: str) -> int:
    """Terminal cells that ``text`` takes: two for wide (Chinese, Japanese, Korean, emoji), none for marks."""
    if text.isascii():
        return len(text)
    return sum(map(_cells, text))


def _cells(character: str) -> int:
    if unicodedata.category(character) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1


def fit(text: str, width: int, *, right: bool = False, ascii_only: bool = False) -> str:
    """``text`` in exactly ``width`` cells: padded, or cut with an ellipsis."""
    if width <= 0:
        return ""
    missing = width - cell_width(text)
    if missing < 0:
        mark = "~" if ascii_only else "…"
        kept, used = "", 0
        for character in text:
            size = _cells(character)
            if used + size > width - 1:
                break
            kept += character
            used += size
        text = kept + mark
        missing = width - used - 1
    return " " * missing + text if right else text + " " * missing


def wrap(text: str, width: int) -> list[str]:
    """``text`` broken into lines of at most ``width`` cells (at least 2), at cells and not at words."""
    lines = []
    for line in text.split("\n"):
        current, used = "", 0
        for character in line:
            size = _cells(character)
            if used + size > max(2, width):
                lines.append(current)
                current, used = "", 0
            current += character
            used += size
        lines.append(current)
    return lines


def wrap_words(text: str, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` cells, broken at spaces where there are any."""
    lines, current = [], ""
    for word in text.split(" "):
        joined = f"{current} {word}" if current else word
        if len(wrap(joined, width)) > 1:
            if current:
                lines.append(current)
            *full, current = wrap(word, width)
            lines += full
        else:
            current = joined
    return [*lines, current] if current else lines


def table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = (), widest: int = 60
) -> str:  # fmt: skip
    """Columns under headers, two spaces apart; the columns in ``right`` are set to the right.

    Cells are made printable and none is wider than ``widest``.
    """
    cells = [[printable(cell, newlines=False) for cell in row] for row in [headers, *rows]]
    widths = [min(widest, max(cell_width(row[column]) for row in cells)) for column in range(len(headers))]
    return "\n".join(_table_line(row, widths, right) for row in cells)


def _table_line(row: Sequence[str], widths: Sequence[int], right: Sequence[int]) -> str:
    fitted = [fit(cell, width, right=n in right) for n, (cell, width) in enumerate(zip(row, widths, strict=True))]
    return "  ".join(fitted).rstrip()


def pairs(items: Iterable[tuple[str, str]]) -> str:
    """``name  value`` lines with the values in one column."""
    known = [(name, printable(value)) for name, value in items]
    width = max((cell_width(name) for name, _ in known), default=0)
    indent = "\n" + " " * (width + 2)
    return "\n".join(f"{fit(name, width)}  {value.replace(chr(10), indent)}".rstrip() for name, value in known)
