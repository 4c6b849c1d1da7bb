"""Profiles: named specs. The shipped ones are files and read only, a person's own are in the registry."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from engine.contract.check import name_problem, require
from engine.contract.errors import ProfileError, SpecError, TraindeckError, nearest
from engine.contract.spec import RunSpec
from engine.contract.specfile import dump_spec, override_spec, parse_spec, read_spec
from engine.runs.anchor import anchored
from engine.runs.storage import Registry, open_registry, read_registry


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A profile as it is listed; a broken one is listed too, with what is wrong."""

    name: str
    origin: Literal["shipped", "own"]
    spec: RunSpec | None
    """None when it is broken."""
    problem: str | None = None
    path: Path | None = None
    """The file of a shipped one."""


def shipped_folder() -> Path:
    """Where the shipped profiles are: in the installed package, else in the source tree."""
    packaged = Path(__file__).parent / "shipped_profiles"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "profiles"


def list_profiles() -> list[Profile]:
    """The shipped profiles by name (``quickstart`` first), then one's own by name."""
    shipped = _shipped()
    taken = {profile.name.casefold() for profile in shipped}
    own = []
    for record in _own(read_registry()):
        profile = _parse(record)
        if record.name.casefold() in taken:
            problem = f"another profile is called {record.name!r}; rename or delete this one"
            profile = Profile(name=record.name, origin="own", spec=profile.spec, problem=problem)
        taken.add(record.name.casefold())
        own.append(profile)
    return shipped + sorted(own, key=lambda profile: profile.name.casefold())


def registry_warnings() -> list[str]:
    """What a person should know about the file that holds their profiles."""
    return read_registry().warnings


def load_profile(name: str) -> RunSpec:
    """The spec of a profile. Raises ProfileError if there is none, more than one of that name, or it is broken."""
    try:
        profiles = list_profiles()
    except TraindeckError:
        # A damaged registry keeps one's own profiles from being read; the shipped ones are files of their own.
        if name.casefold() not in _shipped_names():
            raise
        profiles = _shipped()
    found = [profile for profile in profiles if profile.name.casefold() == name.casefold()]
    if not found:
        raise _unknown(name, [profile.name for profile in profiles])
    if len(found) > 1:
        raise ProfileError(
            "Two profiles have one name",
            f"{len(found)} profiles are called {name!r}",
            f"Rename your own: traindeck profiles rename '{name}' NEW-NAME",
        )
    spec, problem = found[0].spec, found[0].problem
    if spec is None:
        raise ProfileError(f"The profile {name!r} is broken", problem or "", "Repair it, or delete it.")
    return spec


def find_spec(name_or_path: str, overrides: Sequence[str] = ()) -> RunSpec:
    """The spec of a file (anything with a folder or a ``.toml`` in it) or of a profile, with ``a.b=c`` applied.

    Raises SpecError or ProfileError.
    """
    if name_or_path.endswith(".toml") or os.sep in name_or_path:
        return read_spec(Path(name_or_path).expanduser(), overrides)
    return override_spec(load_profile(name_or_path), overrides)


def save_profile(name: str, spec: RunSpec, *, overwrite: bool = False) -> None:
    """Keep ``spec`` as one's own profile ``name``; runs started from it carry that name.

    Raises ProfileError for a bad name, the name of a shipped profile, or one's own unless ``overwrite``.
    """
    _require_free_of_shipped(name)
    text = _text(name, spec)
    with open_registry() as registry:
        present = _named(registry, name)
        if present and not overwrite:
            raise _taken(name, "Choose another name, or overwrite it.")
        registry.profiles.remove(doc_ids=[record.id for record in present])
        registry.profiles.insert({"name": name, "toml": text})


def save_checked(name: str, spec: RunSpec, *, overwrite: bool = False, origin: str = "the spec") -> None:
    """As :func:`save_profile`, for a spec that can be run only. Raises SpecError with all its problems, too."""
    require(msgspec.structs.replace(spec, name=name), origin=origin)
    save_profile(name, spec, overwrite=overwrite)


def import_profile(path: Path, name: str | None = None, *, overwrite: bool = False) -> str:
    """Read a file into a profile of one's own and return its name: ``name``, else the spec's, else the file's.

    Raises SpecError for a file that cannot be read or run, and ProfileError as :func:`save_profile` does.
    """
    path = path.expanduser()
    spec = read_spec(path)
    own = name or (spec.name if spec.name != RunSpec().name else path.stem)
    save_checked(own, spec, overwrite=overwrite, origin=str(path))
    return own


def clone_profile(name: str, new_name: str) -> None:
    """Copy any profile under a new name of one's own. Raises ProfileError."""
    save_profile(new_name, load_profile(name))


def rename_profile(name: str, new_name: str) -> None:
    """Give a profile of one's own another name, even if it is broken. Raises ProfileError."""
    _require_free_of_shipped(new_name)
    with open_registry() as registry:
        # Of two with one name the first is renamed: that tells them apart.
        record = _require_own(registry, name)
        if new_name.casefold() != name.casefold() and _named(registry, new_name):
            raise _taken(new_name, "Choose another name.")
        spec = _parse(record).spec
        text = record.toml if spec is None else _text(new_name, spec)
        registry.profiles.update({"name": new_name, "toml": text}, doc_ids=[record.id])


def delete_profile(name: str) -> None:
    """Delete a profile of one's own. Raises ProfileError."""
    with open_registry() as registry:
        registry.profiles.remove(doc_ids=[_require_own(registry, name).id])


def export_profile(name: str, path: Path, *, overwrite: bool = False) -> Path:
    """Write a profile as a TOML file and return its path; a folder gets ``<name>.toml`` in it.

    Raises ProfileError if it is unknown or broken, the file exists (unless ``overwrite``), or cannot be written.
    """
    content = dump_spec(load_profile(name))
    path = path.expanduser()
    target = path / f"{name}.toml" if path.is_dir() else path
    try:
        with target.open("w" if overwrite else "x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        raise ProfileError("The file exists", str(target), "Choose another name, or overwrite it.") from None
    except OSError as error:
        raise ProfileError("The profile was not exported", f"{target}: {error.strerror or error}") from None
    return target


class _Record(NamedTuple):
    """A profile of one's own as the registry holds it."""

    id: int
    name: str
    toml: str


def _read_shipped(path: Path) -> Profile:
    try:
        return Profile(name=path.stem, origin="shipped", spec=read_spec(path), path=path)
    except SpecError as error:
        return Profile(name=path.stem, origin="shipped", spec=None, problem=_told(error), path=path)


def _parse(record: _Record) -> Profile:
    try:
        return Profile(name=record.name, origin="own", spec=parse_spec(record.toml))
    except SpecError as error:
        return Profile(name=record.name, origin="own", spec=None, problem=_told(error))


def _told(error: SpecError) -> str:
    return "; ".join(str(problem) for problem in error.problems)


def _own(registry: Registry) -> list[_Record]:
    """A record of another form (written by hand) becomes a profile that is shown as broken."""
    return [
        _Record(document.doc_id, str(document.get("name", "unnamed")), str(document.get("toml", "")))
        for document in registry.profiles.all()
    ]


def _named(registry: Registry, name: str) -> list[_Record]:
    return [record for record in _own(registry) if record.name.casefold() == name.casefold()]


def _shipped() -> list[Profile]:
    found = [_read_shipped(path) for path in shipped_folder().glob("*.toml")]
    return sorted(found, key=lambda profile: (profile.name != "quickstart", profile.name))


def _text(name: str, spec: RunSpec) -> str:
    return dump_spec(msgspec.structs.replace(anchored(spec), name=name))


def _shipped_names() -> dict[str, str]:
    return {path.stem.casefold(): path.stem for path in shipped_folder().glob("*.toml")}


def _require_free_of_shipped(name: str) -> None:
    if problem := name_problem(name):
        raise ProfileError("This cannot be the name of a profile", problem, "For example: my-profile")
    if name.casefold() in _shipped_names():
        raise _taken(name, "Shipped profiles cannot be changed: choose another name.")


def _require_own(registry: Registry, name: str) -> _Record:
    if found := _named(registry, name):
        return found[0]
    if name.casefold() in _shipped_names():
        raise ProfileError(
            "Shipped profiles cannot be changed", f"{name!r} came with Traindeck", "Clone it and change the copy."
        )
    raise _unknown(name, [record.name for record in _own(registry)])


def _taken(name: str, hint: str) -> ProfileError:
    return ProfileError("The name is taken", f"a profile is called {name!r} already", hint)


def _unknown(name: str, names: list[str]) -> ProfileError:
    return ProfileError("There is no such profile", repr(name), nearest(name, names) if names else "")
