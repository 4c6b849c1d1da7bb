"""Arguments and options that several commands share, and how a command group of ours is made."""

from __future__ import annotations

from typing import Annotated, Any

import typer

Run = Annotated[str, typer.Argument(metavar="RUN", help="An id, the start of one, a name, a folder, or 'latest'.")]
Spec = Annotated[str, typer.Argument(metavar="PROFILE_OR_FILE", help="A profile's name or a TOML file.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a field; repeatable.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
CheckpointName = Annotated[
    str | None, typer.Option("--checkpoint", metavar="NAME", help="'step-<n>' or 'best'; the newest when left out.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def command_group(**settings: Any) -> typer.Typer:
    """A group of commands with plain help texts: no markup library is loaded for them."""
    return typer.Typer(
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        **settings,
    )
