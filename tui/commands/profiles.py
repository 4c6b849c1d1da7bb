"""``traindeck profiles``: the shipped profiles and one's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from engine.contract.errors import ProfileError
from engine.contract.specfile import dump_spec
from engine.runs.profiles import (
    Profile,
    clone_profile,
    delete_profile,
    export_profile,
    find_spec,
    import_profile,
    list_profiles,
    load_profile,
    registry_warnings,
    rename_profile,
    save_checked,
)
from tui.commands.output import confirm, emit, note, say, tell, widest
from tui.text import printable, table


def list_all(*, as_json: bool) -> None:
    """All profiles; broken ones with what is wrong with them."""
    for warning in registry_warnings():
        note(f"warning: {printable(warning)}")
    profiles = list_profiles()
    if as_json:
        emit({"profiles": [_as_object(profile) for profile in profiles]})
        return
    say(table(["name", "origin", "model", "description"], [_row(profile) for profile in profiles], widest=widest(76)))


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


def save(name: str, name_or_path: str, sets: list[str], *, overwrite: bool, as_json: bool) -> None:
    """Keep a file or a changed profile as an own profile, if it can be run."""
    with _naming_the_flag():
        save_checked(name, find_spec(name_or_path, sets), overwrite=overwrite, origin=name_or_path)
    tell({"profile": name}, f"saved: traindeck train {_quoted(name)}", as_json=as_json)


def clone(name: str, new: str, *, as_json: bool) -> None:
    """Copy a profile."""
    clone_profile(name, new)
    tell({"profile": new, "copied_from": name}, f"{_line(name)} copied to {_line(new)}", as_json=as_json)


def rename(name: str, new: str, *, as_json: bool) -> None:
    """Rename an own profile."""
    rename_profile(name, new)
    tell({"profile": new, "renamed_from": name}, f"{_line(name)} is now {_line(new)}", as_json=as_json)


def delete(name: str, *, yes: bool, as_json: bool) -> None:
    """Delete an own profile once the person has agreed."""
    same = [profile for profile in list_profiles() if profile.name.casefold() == name.casefold()]
    if not any(profile.origin == "own" for profile in same):
        load_profile(name)  # says so if it is unknown
        raise ProfileError(
            "Shipped profiles cannot be changed", f"{name!r} came with Traindeck", "Only profiles of your own can."
        )
    confirm(f"Delete the profile {_line(name)!r}?", yes=yes)
    delete_profile(name)
    tell({"deleted": name}, f"deleted the profile {_line(name)}", as_json=as_json)


def export(name: str, path: Path, *, overwrite: bool, as_json: bool) -> None:
    """Write a profile to a file, over one that is there only when told so."""
    with _naming_the_flag():
        written = str(export_profile(name, path, overwrite=overwrite))
    tell({"profile": name, "file": written}, _line(written), as_json=as_json)


def import_file(path: Path, name: str | None, *, overwrite: bool, as_json: bool) -> None:
    """Read a file into an own profile, called as the file says or as it is named."""
    with _naming_the_flag():
        own = import_profile(path, name, overwrite=overwrite)
    tell({"profile": own, "file": str(path)}, f"imported: traindeck train {_quoted(own)}", as_json=as_json)


@contextmanager
def _naming_the_flag() -> Iterator[None]:
    """Where something can be overwritten: how that is said on the command line."""
    try:
        yield
    except ProfileError as error:
        if "overwrite" not in error.hint:
            raise
        hint = "Choose another name, or replace it with --overwrite."
        raise ProfileError(error.title, error.message, hint) from None


def _line(text: str) -> str:
    return printable(text, newlines=False)


def _quoted(name: str) -> str:
    return f"'{_line(name)}'" if " " in name else _line(name)
