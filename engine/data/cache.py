"""Where prepared data is kept, and how two runs that need the same come by one copy."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import platformdirs

_STALE_SECONDS = 14 * 24 * 3600
_BUILDING = "building-"


def cache_folder() -> Path:
    """``data`` in Traindeck's home: where :func:`engine.runs.home.data_cache` is, which this room may not import."""
    home = os.environ.get("TRAINDECK_HOME", "").strip()
    root = Path(home).expanduser() if home else Path(platformdirs.user_data_dir("traindeck", appauthor=False))
    return root.absolute() / "data"


class CachePlaces:
    """The paths that belong to one fingerprint."""

    def __init__(self, cache: Path, fingerprint: str) -> None:
        self.finished = cache / fingerprint
        self.building = cache / f"{_BUILDING}{fingerprint}"
        self.lock = cache / "locks" / f"{fingerprint}.lock"

    @property
    def parts(self) -> Path:
        return self.building / "parts"

    @property
    def joined(self) -> Path:
        """Becomes ``finished`` by being renamed."""
        return self.building / "joined"

    @contextmanager
    def locked(self, waiting: Callable[[float], None]) -> Iterator[None]:
        """Hold the lock; while another process does, ``waiting`` is called with the seconds so far."""
        self.lock.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = filelock.FileLock(self.lock)
        began = time.monotonic()
        while True:
            try:
                lock.acquire(timeout=1.0, poll_interval=0.1)
                break
            except filelock.Timeout:
                waiting(time.monotonic() - began)
        try:
            yield
        finally:
            lock.release()


def remove_stale(cache: Path) -> None:
    """Delete half-made data that nobody has gone on with for two weeks."""
    for folder in cache.glob(f"{_BUILDING}*"):
        places = CachePlaces(cache, folder.name.removeprefix(_BUILDING))
        lock = filelock.FileLock(places.lock)
        try:
            if time.time() - folder.stat().st_mtime < _STALE_SECONDS:
                continue
            with lock.acquire(timeout=0):
                shutil.rmtree(folder)
        except (filelock.Timeout, OSError):
            continue  # in use, gone meanwhile, or not ours to delete
