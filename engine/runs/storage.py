"""The registry: a person's profiles in one TinyDB file that several processes may use at once.

TinyDB's own storage overwrites its file in place on every insert. Ours reads once when a transaction begins, holds
a lock until it ends, and then writes once: temporary file, fsync, rename. The state before is kept as
``registry.json.bak``, and stands in, with a warning, for a file that has been damaged.

Runs have no table: their directories are the truth, also those that were copied here, and a second list of them
could only be wrong. The only importer of tinydb.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
from tinydb import TinyDB
from tinydb.storages import Storage
from tinydb.table import Table

from engine.contract.durable import sync_folder, write_durably
from engine.contract.errors import TraindeckError
from engine.runs.home import home

SCHEMA = 1
LOCK_SECONDS = 20.0
_META = "traindeck"

Tables = dict[str, dict[str, Any]]


class Damaged(Exception):  # noqa: N818 - a condition within this module, shown to no one
    """The file is there and is not a registry."""


class RegistryStorage(Storage):
    """Holds the tables in memory between :meth:`load` and :meth:`commit`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.backup = path.with_name(path.name + ".bak")
        self.warnings: list[str] = []
        self._changed = False
        self._damaged = False
        self._tables = self._load()

    def read(self) -> Tables | None:
        return self._tables

    def write(self, data: Tables) -> None:
        self._tables = data
        self._changed = True

    def commit(self) -> None:
        """Write what changed, keeping the state before as the backup. Raises OSError with the old file in place."""
        if not self._changed:
            return
        content = json.dumps({_META: {"1": {"schema": SCHEMA}}, **(self._tables or {})}, ensure_ascii=False, indent=1)
        if self._damaged and self.path.exists():
            # The backup is the last good state: it stays, and the damaged file is kept aside for its owner.
            self.path.rename(self.path.with_name(f"{self.path.name}.damaged-{time.time_ns()}"))
        elif self.path.exists():
            link = self.backup.with_name(f".{self.backup.name}.tmp")
            link.unlink(missing_ok=True)
            os.link(self.path, link)
            link.replace(self.backup)
        write_durably(self.path, content.encode("utf-8"))
        sync_folder(self.path.parent)
        self._changed = self._damaged = False

    def _load(self) -> Tables | None:
        try:
            tables = _read_tables(self.path)
        except Damaged as error:
            self._damaged = True
            return self._load_backup(str(error))
        if tables is None and self.backup.exists():
            return self._load_backup(f"{self.path} is missing")
        return tables

    def _load_backup(self, reason: str) -> Tables | None:
        try:
            tables = _read_tables(self.backup)
        except Damaged as error:
            raise self._lost(f"{reason}; {error}") from None
        if tables is None:
            raise self._lost(reason)
        self.warnings.append(f"{reason}: the backup {self.backup.name} is used, without the newest change")
        return tables

    def _lost(self, message: str) -> TraindeckError:
        return TraindeckError(
            "The registry of profiles is damaged",
            f"{message}. There is no good backup; nothing was changed.",
            f"Repair {self.path}, or move it and {self.backup.name} away to begin with an empty one. "
            "Runs are not affected: each is complete in its own directory.",
        )


def _read_tables(path: Path) -> Tables | None:
    """The tables in a file; None where there is none. Raises Damaged, or TraindeckError for a newer schema."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({error.strerror or error})") from None
    try:
        tables = json.loads(content)
    except (ValueError, RecursionError):
        raise Damaged(f"{path} is not JSON") from None
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise Damaged(f"{path} holds no tables")
    schema = tables.pop(_META, {}).get("1", {}).get("schema")
    if not isinstance(schema, int):
        raise Damaged(f"{path} is not a registry of Traindeck")
    if schema > SCHEMA:
        raise TraindeckError(
            "The registry is of a newer Traindeck",
            f"{path} has schema {schema}, and this version knows {SCHEMA}",
            "Install the newer version again, or set TRAINDECK_HOME to another folder.",
        )
    return tables


class Registry:
    """The tables, as they were when the transaction began plus its own changes."""

    def __init__(self, database: TinyDB, warnings: list[str]) -> None:
        self._database = database
        self.warnings = warnings
        """What a person should know about the file, such as that the backup was used."""

    @property
    def profiles(self) -> Table:
        """``{"name", "toml"}``."""
        return self._database.table("profiles")


@contextmanager
def open_registry() -> Iterator[Registry]:
    """A transaction: alone while it lasts, written once at its end, not at all if it raises. It does not nest.

    Raises TraindeckError where the registry is damaged beyond its backup, locked by another, or cannot be written.
    """
    path = home() / "registry.json"
    lock = filelock.FileLock(path.with_name("registry.lock"), timeout=LOCK_SECONDS, mode=0o600)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise TraindeckError(
            "The registry is in use",
            f"another Traindeck has held {lock.lock_file} for {LOCK_SECONDS:.0f} seconds",
            "Close the other one and try again.",
        ) from None
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        storage = RegistryStorage(path)
        database = TinyDB(storage=lambda: storage)
        yield Registry(database, storage.warnings)
        try:
            storage.commit()
        except OSError as error:
            raise _unwritable(path, error) from None
    finally:
        lock.release()


def read_registry() -> Registry:
    """The registry as it is now, for reading: takes no lock, for a file that is renamed into place is always whole."""
    storage = RegistryStorage(home() / "registry.json")
    return Registry(TinyDB(storage=lambda: storage), storage.warnings)


def _unwritable(path: Path, error: OSError) -> TraindeckError:
    return TraindeckError(
        "The registry cannot be written",
        f"{path}: {error.strerror or error}. What it held before is unchanged.",
        "Free some space, or set TRAINDECK_HOME to a folder that you can write to.",
    )
