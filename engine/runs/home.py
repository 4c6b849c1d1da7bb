"""Where Traindeck keeps things: ``$TRAINDECK_HOME``, or the platform's folder for a person's data.

Everything in it is private: folders are made with mode 0700, and files with 0600 by those who write them.
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from engine.contract.errors import TraindeckError

VARIABLE = "TRAINDECK_HOME"


def home() -> Path:
    """The home folder as an absolute path, made if it is not there.

    Raises TraindeckError where it cannot be made or written.
    """
    given = os.environ.get(VARIABLE, "").strip()
    path = Path(given).expanduser() if given else Path(platformdirs.user_data_dir("traindeck", appauthor=False))
    return private_folder(path.absolute())


def runs_folder() -> Path:
    """The folder that holds a directory for each run."""
    return private_folder(home() / "runs")


def data_cache() -> Path:
    """The folder of prepared training data, shared by all runs."""
    return private_folder(home() / "data")


def private_folder(path: Path) -> Path:
    """``path``, made with mode 0700 if it is not there. A folder that exists keeps the mode that its owner gave it.

    Raises TraindeckError where it cannot be made or written.
    """
    remedy = f"Set {VARIABLE} to a folder that you can write to, or change who may write there."
    title = "Traindeck's folder cannot be used"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise TraindeckError(title, f"{path} is a file, and a folder is needed", remedy) from None
    except OSError as error:
        raise TraindeckError(title, f"{path} cannot be made: {error.strerror or error}", remedy) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise TraindeckError(title, f"{path} cannot be written", remedy)
    return path
