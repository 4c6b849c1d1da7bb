"""How a supervisor is cut loose from the login it was started from."""

from __future__ import annotations

import getpass
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

How = Literal["setsid", "systemd-run", "slurm"]
"""``slurm``: not at all, as the batch system keeps it."""

_PLACES = ("/usr/lib/systemd", "/lib/systemd", "/usr/local/lib/systemd", "/run/systemd", "/etc/systemd")
"""Later ones win (logind.conf(5))."""
LINGER = Path("/var/lib/systemd/linger")


def kills_user_processes(places: Sequence[Path] = tuple(map(Path, _PLACES)), user: str | None = None) -> bool:
    """Whether logind ends what a person leaves running at logout, as far as its configuration tells."""
    settings: dict[str, str] = {}
    for place in places:
        for file in [place / "logind.conf", *sorted((place / "logind.conf.d").glob("*.conf"))]:
            try:
                text = file.read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue  # not there, or not for us to read: then its default holds
            settings.update(
                re.findall(r"^\s*(KillUserProcesses|KillOnlyUsers|KillExcludeUsers)\s*=\s*(.*?)\s*$", text, re.M)
            )
    user = getpass.getuser() if user is None else user
    only, excluded = settings.get("KillOnlyUsers", "").split(), settings.get("KillExcludeUsers", "root").split()
    on = settings.get("KillUserProcesses", "no").lower() in {"yes", "true", "on", "1"}
    return on and user not in excluded and (not only or user in only)


def has_user_manager() -> bool:
    """Whether ``systemd-run --user`` can work here."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return runtime is not None and Path(runtime, "systemd/private").exists() and shutil.which("systemd-run") is not None


def choose() -> How:
    """``systemd-run`` where the machine kills left-over processes of a login, else ``setsid``."""
    return "systemd-run" if kills_user_processes() and has_user_manager() else "setsid"


def prefix(how: How) -> list[str]:
    """What goes in front of the supervisor's command."""
    return ["systemd-run", "--user", "--scope", "--quiet", "--collect", "--"] if how == "systemd-run" else []


def warning(how: How) -> str | None:
    """What a person should know about the way that is in force; None where there is nothing."""
    if how == "slurm" or not kills_user_processes():
        return None
    user = getpass.getuser()
    if how == "systemd-run" and (LINGER / user).exists():
        return None
    return f"this machine may end the training when you log out; to prevent that: loginctl enable-linger {user}"
