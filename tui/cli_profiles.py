"""The ``traindeck profiles`` commands, declared; what they do is in :mod:`tui.commands.profiles`."""

# ruff: noqa: PLC0415 (each command imports what it needs when it runs)
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tui.options import Json, Sets, Yes, command_group

profiles_app = command_group(add_completion=False, help="List, show, save, rename and share profiles.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A profile's name.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an own profile of that name.")]
OverwriteFile = Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")]
FileToWrite = Annotated[Path, typer.Argument(metavar="FILE", help="TOML file to write.")]


@profiles_app.callback(invoke_without_command=True)
def profiles(ctx: typer.Context, json_: Json = False) -> None:
    """Shipped and own profiles; without a sub-command: list them."""
    if ctx.invoked_subcommand is None:
        list_(json_)


@profiles_app.command("list")
def list_(json_: Json = False) -> None:
    """List all profiles, broken ones with their problem."""
    from tui.commands import profiles as profiles_

    profiles_.list_all(as_json=json_)


@profiles_app.command()
def show(name: Name, json_: Json = False) -> None:
    """Print a profile as TOML."""
    from tui.commands import profiles as profiles_

    profiles_.show(name, as_json=json_)


@profiles_app.command()
def save(
    name: Name, spec: Annotated[str, typer.Argument(metavar="PROFILE_OR_FILE", help="What to save.")],
    sets: Sets = None, overwrite: Overwrite = False, json_: Json = False,
) -> None:  # fmt: skip
    """Save a TOML file, or a changed profile, as an own profile."""
    from tui.commands import profiles as profiles_

    profiles_.save(name, spec, sets or [], overwrite=overwrite, as_json=json_)


@profiles_app.command()
def clone(
    name: Name, new: Annotated[str, typer.Argument(help="Name of the copy.")], json_: Json = False
) -> None:  # fmt: skip
    """Copy a profile under another name."""
    from tui.commands import profiles as profiles_

    profiles_.clone(name, new, as_json=json_)


@profiles_app.command()
def rename(
    name: Name, new: Annotated[str, typer.Argument(help="The new name.")], json_: Json = False
) -> None:  # fmt: skip
    """Rename an own profile."""
    from tui.commands import profiles as profiles_

    profiles_.rename(name, new, as_json=json_)


@profiles_app.command("delete")
def delete_profile(name: Name, yes: Yes = False, json_: Json = False) -> None:
    """Delete an own profile."""
    from tui.commands import profiles as profiles_

    profiles_.delete(name, yes=yes, as_json=json_)


@profiles_app.command("export")
def export_profile(name: Name, path: FileToWrite, overwrite: OverwriteFile = False, json_: Json = False) -> None:
    """Write a profile to a TOML file."""
    from tui.commands import profiles as profiles_

    profiles_.export(name, path, overwrite=overwrite, as_json=json_)


@profiles_app.command("import")
def import_profile(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="TOML file to read.")],
    name: Annotated[str | None, typer.Option("--name", help="Name of the profile; the file's own name.")] = None,
    overwrite: Overwrite = False,
    json_: Json = False,
) -> None:
    """Read a TOML file into an own profile."""
    from tui.commands import profiles as profiles_

    profiles_.import_file(path, name, overwrite=overwrite, as_json=json_)
