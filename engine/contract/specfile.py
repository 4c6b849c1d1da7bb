"""Specs as TOML: reading with aliases and dotted overrides, refusing unknown keys, writing canonically."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import tomli_w

from engine.contract.aliases import ALIASES, expand_aliases
from engine.contract.check import check
from engine.contract.errors import Problem, SpecError
from engine.contract.spec import RunSpec

Tree = dict[str, Any]


def _part_types() -> dict[str, type[msgspec.Struct]]:
    hints = get_type_hints(RunSpec)
    return {
        name: kind
        for name in RunSpec.__struct_fields__
        if isinstance(kind := hints[name], type) and issubclass(kind, msgspec.Struct)
    }


PARTS = _part_types()
"""The tables of a spec file and the struct of each."""
FIELDS: tuple[str, ...] = tuple(
    f"{name}.{field}" if part else name
    for name in RunSpec.__struct_fields__
    for part in [PARTS.get(name)]
    for field in (part.__struct_fields__ if part else ("",))
)
"""Every dotted field name of a spec."""


def read_spec(path: Path, overrides: Sequence[str] = ()) -> RunSpec:
    """The spec in a TOML file with ``a.b=c`` overrides applied.

    Raises SpecError naming the file for anything that is wrong with it.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise SpecError([Problem(field="", message="this is a pipe, socket or device, not a file")], str(path))
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise SpecError([Problem(field="", message=f"a spec has at most {LARGEST_FILE} bytes")], str(path))
        text = content.decode("utf-8")
    except OSError as error:
        raise SpecError([Problem(field="", message=error.strerror or str(error))], str(path)) from None
    except UnicodeDecodeError as error:
        raise SpecError(
            [Problem(field="", message=f"byte {error.start} is not UTF-8", hint="save the file as UTF-8")], str(path)
        ) from None
    return parse_spec(text, overrides, origin=str(path))


def parse_spec(text: str, overrides: Sequence[str] = (), origin: str = "the spec") -> RunSpec:
    """The spec in TOML text; see :func:`read_spec`."""
    try:
        tree = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # beside its own error: numbers too long, nesting too deep
        raise SpecError([Problem(field="", message=f"this is not TOML: {error}")], origin) from None
    return build_spec(tree, overrides, origin)


def build_spec(tree: Mapping[str, Any], overrides: Sequence[str] = (), origin: str = "the spec") -> RunSpec:
    """The spec in nested mappings. All unknown keys and all wrong types are reported together."""
    problems: list[Problem] = []
    merged = expand_aliases(tree, problems)
    for override in overrides:
        _apply_override(merged, override, problems)
    problems += _unknown_keys(merged)
    known = {key: value for key, value in merged.items() if key in RunSpec.__struct_fields__}
    values: Tree = {}
    for key, value in known.items():
        values[key] = _convert(key, value, problems)
    if problems:
        # What could be read is checked too, so that all problems are shown at once.
        readable = msgspec.convert(_without_wrong({key: _without_wrong(item) for key, item in values.items()}), RunSpec)
        named = {problem.field for problem in problems}
        problems += [problem for problem in check(readable) if problem.field not in named]
        raise SpecError(problems, origin)
    return msgspec.convert(values, RunSpec)


def _without_wrong(value: Any) -> Any:
    """A part without the fields that could not be read."""
    return {name: item for name, item in value.items() if item is not WRONG} if isinstance(value, dict) else value


def override_spec(spec: RunSpec, overrides: Sequence[str], origin: str = "--set") -> RunSpec:
    """``spec`` with ``a.b=c`` overrides applied."""
    return build_spec(spec_tree(spec), overrides, origin)


def spec_tree(spec: RunSpec) -> Tree:
    """Nested dicts of builtin types, without the fields that are None (TOML has no null)."""
    tree: Tree = msgspec.to_builtins(spec)
    return {
        key: {name: item for name, item in value.items() if item is not None} if isinstance(value, dict) else value
        for key, value in tree.items()
    }


WRONG = object()
"""Stands for a value that could not be read; reported already."""
LARGEST_FILE = 1 << 20

NULLED = "none"
"""How a field whose default is not None is switched off in TOML and overrides: ``clip_norm = "none"``."""


def dump_spec(spec: RunSpec) -> str:
    """``spec`` as canonical TOML: every decided field, in the order of the structs."""
    tree = spec_tree(spec)
    for part, kind in PARTS.items():
        for field in msgspec.structs.fields(kind):
            if getattr(getattr(spec, part), field.name) is None and field.default is not None:
                tree[part][field.name] = NULLED
    return tomli_w.dumps(tree)


def _apply_override(tree: Tree, override: str, problems: list[Problem]) -> None:
    name, separator, raw = override.partition("=")
    name = name.strip()
    if not separator or not name:
        problems.append(
            Problem(field="--set", message=f"{override!r} is not of the form a.b=c", hint="e.g. optim.lr=3e-4")
        )
        return
    try:
        value = tomllib.loads(f"value = {raw.strip()}")["value"]
    except (ValueError, RecursionError):
        value = raw.strip()  # a bare word is text, so that quotes need not survive a shell
    nested: Tree = {}
    place = nested
    *parents, leaf = name.split(".")
    for parent in parents:
        place = place.setdefault(parent, {})
    place[leaf] = value
    for key, item in expand_aliases(nested, problems).items():
        if isinstance(item, dict) and isinstance(tree.get(key), dict):
            tree[key] = {**tree[key], **item}
        else:
            tree[key] = item


def _unknown_keys(tree: Tree) -> list[Problem]:
    problems = []
    for key, value in tree.items():
        if key not in RunSpec.__struct_fields__:
            problems.append(_unknown(key, key))
        elif key in PARTS and isinstance(value, dict):
            fields = PARTS[key].__struct_fields__
            problems += [_unknown(f"{key}.{name}", name) for name in value if name not in fields]
    return problems


def _unknown(dotted: str, leaf: str) -> Problem:
    exact = [field for field in FIELDS if field.rpartition(".")[2] == leaf]
    found = exact[0] if exact else _similar(dotted, leaf)
    hint = f"did you mean {found!r}?" if found else "see `traindeck profiles show quickstart` for the fields there are"
    return Problem(field=dotted, message="there is no such field", hint=hint)


def _similar(dotted: str, leaf: str) -> str | None:
    """The field whose name, or another trainer's name for it, is most like what was written; None if none is."""
    names = {name: name for name in FIELDS} | ALIASES | {name.rpartition(".")[2]: name for name in FIELDS}
    scored = [
        (difflib.SequenceMatcher(None, written, name).ratio(), field)
        for name, field in names.items()
        for written in (dotted, leaf)
    ]
    score, field = max(scored)
    return field if score >= 0.6 else None


def _convert(key: str, value: Any, problems: list[Problem]) -> Any:
    """Type-check one part field by field, so that every wrong type is reported and not only the first."""
    if key not in PARTS:
        kind = get_type_hints(RunSpec)[key]
        return _convert_field(key, value, kind, problems)
    if not isinstance(value, dict):
        problems.append(Problem(field=key, message=f"must be a table, not {value!r}", hint=f"write [{key}]"))
        return WRONG
    hints = get_type_hints(PARTS[key])
    return {
        name: _convert_field(f"{key}.{name}", item, hints[name], problems)
        for name, item in value.items()
        if name in hints
    }


def _convert_field(dotted: str, value: Any, kind: Any, problems: list[Problem]) -> Any:
    optional = type(None) in getattr(kind, "__args__", ())
    if value in (NULLED, "") and optional:
        return None
    try:
        if isinstance(value, str):
            value = _list_of(value, kind)
        if isinstance(value, int) and not isinstance(value, bool) and kind in (float, float | None):
            value = float(value)
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, OverflowError) as error:
        shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
        problems.append(Problem(field=dotted, message=f"{shown} does not fit: {_wanted(str(error), kind)}"))
        return WRONG


def _list_of(text: str, kind: Any) -> Any:
    """Items between commas where ``kind`` takes a list, so that quotes and brackets need not survive a shell."""
    items = next((part.__args__[0] for part in getattr(kind, "__args__", ()) if hasattr(part, "__args__")), None)
    parts = [part.strip().strip("'\"") for part in text.strip().removeprefix("[").removesuffix("]").split(",")]
    if items is str:
        return parts
    if items is int and len(parts) > 1 and all(part.isdecimal() and len(part) < 400 for part in parts):
        return [int(part) for part in parts]
    return text


_TYPES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple[int, ...]: "a list of whole numbers",
    tuple[str, ...]: "a list of names",
}


def _wanted(message: str, kind: Any) -> str:
    """What a field takes, in words for a person; msgspec's own message where there are none."""
    within = (get_args(part) if get_origin(part) is Literal else (part,) for part in getattr(kind, "__args__", (kind,)))
    parts = [part for inner in within for part in inner]
    if choices := [str(item) for item in parts if isinstance(item, str)]:
        return "choose from " + ", ".join(choices)
    words = [_TYPES[part] for part in parts if part in _TYPES]
    return "it takes " + " or ".join(words) if words else message
