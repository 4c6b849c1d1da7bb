"""``traindeck profiles``: the shipped profiles and one's own."""

from __future__ import annotations

from pathlib import Path

import msgspec

from engine.contract.check import require
from engine.contract.specfile import dump_spec, read_spec, spec_tree
from engine.runs.profiles import (
    Profile,
    clone_profile,
    delete_profile,
    export_profile,
    find_spec,
    list_profiles,
    load_profile,
    registry_warnings,
    rename_profile,
    save_profile,
)
from tui.commands.output import confirm, emit, note, say
from tui.text import printable, table


def list_all(*, as_json: bool) -> None:
    """All profiles; broken ones with what is wrong with them."""
    for warning in registry_warnings():
        note(f"warning: {printable(warning)}")
    profiles = list_profiles()
    if as_json:
        emit({"profiles": [_as_object(profile) for profile in profiles]})
        return
    say(table(["name", "origin", "model", "description"], [_row(profile) for profile in profiles], widest=76))


def _as_object(profile: Profile) -> dict[str, object]:
    spec = profile.spec
    return {
        "name": profile.name,
        "origin": profile.origin,
        "description": spec.description if spec else None,
        "model": spec.model.preset if spec else None,
        "problem": profile.problem,
        "path": str(profile.path) if profile.path else None,
    }


def _row(profile: Profile) -> list[str]:
    spec = profile.spec
    about = f"! {profile.problem}" if profile.problem else spec.description if spec else ""
    return [profile.name, profile.origin, spec.model.preset if spec else "n/a", about]


def show(name: str, *, as_json: bool) -> None:
    """One profile: a shipped one with the comments of its file."""
    spec = load_profile(name)
    if as_json:
        emit({"name": name, "spec": msgspec.to_builtins(spec)})
        return
    path = next((profile.path for profile in list_profiles() if profile.name.casefold() == name.casefold()), None)
    say(printable((path.read_text(encoding="utf-8") if path else dump_spec(spec)).rstrip()))


def save(name: str, name_or_path: str, sets: list[str], *, overwrite: bool) -> None:
    """Keep a file or a changed profile as an own profile, if it can be run."""
    spec = find_spec(name_or_path, sets)
    require(msgspec.structs.replace(spec, name=name), origin=name_or_path)
    save_profile(name, spec, overwrite=overwrite)
    say(f"saved: traindeck train {_quoted(name)}")


def clone(name: str, new: str) -> None:
    """Copy a profile."""
    clone_profile(name, new)
    say(f"{printable(name)} copied to {printable(new)}")


def rename(name: str, new: str) -> None:
    """Rename an own profile."""
    rename_profile(name, new)
    say(f"{printable(name)} is now {printable(new)}")


def delete(name: str, *, yes: bool) -> None:
    """Delete an own profile once the person has agreed."""
    confirm(f"Delete the profile {printable(name)!r}?", yes=yes)
    delete_profile(name)
    say(f"deleted the profile {printable(name)}")


def export(name: str, path: Path) -> None:
    """Write a profile to a file that is not there yet."""
    say(printable(str(export_profile(name, path))))


def import_file(path: Path, name: str | None, *, overwrite: bool) -> None:
    """Read a file into an own profile, called as the file says or as it is named."""
    spec = read_spec(path.expanduser())
    tree_name = spec_tree(spec)["name"]
    own = name or (tree_name if tree_name != "untitled" else path.stem)
    require(msgspec.structs.replace(spec, name=own), origin=str(path))
    save_profile(own, spec, overwrite=overwrite)
    say(f"imported: traindeck train {_quoted(own)}")


def _quoted(name: str) -> str:
    return f"'{name}'" if " " in name else name
