"""A spec while a person types it: texts by field, read back into values with every problem at its field.

No Textual import: the form shows what is here.
"""

from __future__ import annotations

import math
import re
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import tomli_w

from engine.contract.errors import Problem
from engine.contract.spec import RunSpec
from engine.contract.specfile import NULLED
from tui.fields import Field, sections

FIELDS: dict[str, Field] = {item.name: item for group in sections().values() for item in group}


def value_of(spec: RunSpec, name: str) -> object:
    """The value at a dotted name."""
    table, _, leaf = name.rpartition(".")
    return getattr(getattr(spec, table) if table else spec, leaf)


def text_of(value: object) -> str:
    """How a value stands in the form; None is empty."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        # A comma tells "the device 1" from "one device".
        alone = len(value) == 1 and isinstance(value[0], int)
        return ",".join(map(_visible_text, value)) + ("," if alone else "")
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return _visible_text(value)


def _visible_text(value: object) -> str:
    return "".join(map(_visible, str(value)))


_ESCAPE = re.compile(r"\\(n|t|\\|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")
_SHORT = {"\\": "\\\\", "\n": "\\n", "\t": "\\t"}


def _visible(character: str) -> str:
    """A character as it stands in a line of text: what has no sign of its own is written as Python writes it."""
    if character in _SHORT:
        return _SHORT[character]
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _meant(found: re.Match[str]) -> str:
    """The character that an escape stands for."""
    escape = found[1]
    if escape in {"n", "t", "\\"}:
        return {"n": "\n", "t": "\t", "\\": "\\"}[escape]
    code = int(escape[1:], 16)
    is_character = code < 0x110000 and not 0xD800 <= code < 0xE000
    return chr(code) if is_character else found[0]


def read_text(item: Field, text: str) -> object | Problem:
    """The value that ``text`` means in a field, or what is wrong with it."""
    if item.kind == "text":
        return None if item.optional and not text else _ESCAPE.sub(_meant, text)
    text = text.strip()
    if not text:
        if item.optional:
            return None
        return Problem(field=item.name, message="needs a value", hint=f"the default is {text_of(item.default)}")
    if item.kind == "switch":
        return text == "yes"
    if item.kind == "choice":
        return text
    if item.kind == "devices":
        return _devices(item, text)
    if item.kind in {"integers", "names"}:
        return _list(item, text)
    number = _number(text)
    if number is None:
        return Problem(field=item.name, message=f"{text!r} is not a number")
    if item.kind == "integer":
        if not math.isfinite(number) or number != int(number):
            return Problem(field=item.name, message=f"{text!r} is not a whole number")
        return int(number)
    return float(number)


def _number(text: str) -> int | float | None:
    plain = text.replace("_", "").replace(",", "")
    try:
        return int(plain)
    except ValueError:
        try:
            return float(plain)
        except ValueError:
            return None


def _devices(item: Field, text: str) -> object | Problem:
    parts = [part.strip() for part in text.strip("[]").split(",")]
    if not all(part.isdecimal() for part in parts if part):
        return Problem(
            field=item.name, message=f"{text!r} is neither a count nor a list", hint="2 is two devices; 0,3 is these"
        )
    numbers = tuple(int(part) for part in parts if part)
    # A comma makes it a list: "1," is the device 1, "1" is one device.
    return numbers[0] if "," not in text and not text.startswith("[") else numbers


def _list(item: Field, text: str) -> object | Problem:
    """Words or whole numbers between commas."""
    parts = [
        part.strip().strip("\"'")
        for part in re.split(r"[,;]|\s+" if item.kind == "integers" else ",", text.strip("[]"))
    ]
    words = [part for part in parts if part]
    if item.kind == "names":
        return tuple(_ESCAPE.sub(_meant, word) for word in words) or None
    wrong = next((word for word in words if not re.fullmatch(r"-?\d{1,18}", word)), None)
    if wrong is not None:
        return Problem(field=item.name, message=f"{wrong!r} is not a whole number", hint="with commas between: 4,4,2")
    return tuple(map(int, words)) or None


@dataclass
class Draft:
    """The texts of all fields, and the spec that they started from."""

    base: RunSpec
    origin: str
    """What ``traindeck train`` takes for the base: a profile's name or a path."""
    texts: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.texts:
            self.texts = {name: text_of(value_of(self.base, name)) for name in FIELDS}

    @property
    def changed(self) -> bool:
        """Whether anything was typed that the base does not say."""
        return any(text != text_of(value_of(self.base, name)) for name, text in self.texts.items())

    def read(self) -> tuple[RunSpec, list[Problem]]:
        """The spec as typed, and what cannot be read; unreadable fields keep the base's value."""
        problems: list[Problem] = []
        tree: dict[str, Any] = {}
        for name, item in FIELDS.items():
            base = value_of(self.base, name)
            text = self.texts[name]
            value = base if text == text_of(base) else read_text(item, text)
            if isinstance(value, Problem):
                problems.append(value)
                value = base
            table, _, leaf = name.rpartition(".")
            place = tree.setdefault(table, {}) if table else tree
            place[leaf] = value
        try:
            return msgspec.convert(tree, RunSpec), problems
        except msgspec.ValidationError as error:  # a number beyond 64 bits, say
            return self.base, [*problems, self._unfit(str(error))]

    def _unfit(self, message: str) -> Problem:
        path = message.rpartition("$.")[2].rstrip("`") if "$." in message else ""
        return Problem(field=path if path in FIELDS else "", message=message.partition(" - ")[0].replace("`", ""))

    def command(self, spec: RunSpec) -> str:
        """The command line that trains ``spec``, starting from the same base."""
        parts = ["traindeck", "train", self.origin]
        for setting in settings(self.base, spec):
            parts += ["--set", setting]
        return shlex.join(parts)


def settings(base: RunSpec, spec: RunSpec) -> list[str]:
    """The ``a.b=c`` overrides that turn ``base`` into ``spec``."""
    return [
        f"{name}={_setting(value)}"
        for name in FIELDS
        if (value := value_of(spec, name)) != value_of(base, name)
    ]  # fmt: skip


def _setting(value: object) -> str:
    if value is None:
        return NULLED
    if isinstance(value, str):
        return value if _stays_text(value) else _toml(value)
    if isinstance(value, tuple):
        return f"[{','.join(_toml(part) if isinstance(part, str) else str(part) for part in value)}]"
    return _toml(value)


def _stays_text(text: str) -> bool:
    """Whether a bare word is read back as this very text."""
    if not text or text != text.strip() or text == NULLED or not text.isprintable():
        return False
    try:
        tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return True
    return False


def _toml(value: object) -> str:
    mapping: Mapping[str, object] = {"value": value}
    return tomli_w.dumps(mapping).strip().removeprefix("value = ")
