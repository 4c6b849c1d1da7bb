"""Opening the app, and what is printed instead where there is no terminal."""

from __future__ import annotations

import sys
from pathlib import Path

from engine.contract.errors import TraindeckError
from tui.commands.output import in_terminal, tell


def open_app(run: Path | None = None) -> None:
    """Open the app, on the monitor of ``run`` if one is given. Raises TraindeckError without a terminal."""
    if not in_terminal():
        raise TraindeckError(
            "The app needs a terminal",
            "Standard input or output is not one.",
            "Use the commands instead: traindeck --help",
        )
    from tui.app import TraindeckApp  # noqa: PLC0415 - the only place that pays for the screens

    app = TraindeckApp(open_run=run)
    app.run()
    if app.return_code:
        sys.exit(app.return_code)


def installed_version(package: str) -> str | None:
    """The version of an installed package, without importing it; None if it is not installed."""
    import importlib.metadata  # noqa: PLC0415 - costs the first paint of the app more than this whole module

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def version(*, as_json: bool = False) -> None:
    """Print ``traindeck`` and its version."""
    found = installed_version("traindeck")
    tell({"version": found}, f"traindeck {found or 'of an unknown version'}", as_json=as_json)
