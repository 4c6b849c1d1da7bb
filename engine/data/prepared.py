"""Prepared data on disk: packed tokens, the tokenizer, and the manifest that makes the folder complete."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from engine.contract.errors import DataError
from engine.contract.records import UNREADABLE
from engine.contract.rundir import RunDirectory

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FORMAT = 1
"""Raised when prepared folders are laid out or filled in another way; part of every fingerprint."""
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
TRAIN = "train.bin"
VALIDATION = "validation.bin"

_AGAIN = "prepare it again with `traindeck data SPEC`, or resume the run"


class PreparedManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What ``manifest.json`` says; written last, so that a folder that has one is complete."""

    schema: int = FORMAT
    fingerprint: str
    """Of the content of the sources and of everything that decides the tokens."""
    source: str
    """Where the text came from, in words."""
    documents: int
    bytes: int
    """Of the documents as UTF-8."""
    vocabulary: int
    """Token ids are below this."""
    train_tokens: int
    validation_tokens: int
    train_bytes: int
    validation_bytes: int
    unknown_rate: float | None
    """Share of tokens that are the unknown token; None where the tokenizer has none."""
    dtype: Literal["uint16", "uint32"]
    """Of the token files, little-endian."""
    eos_id: int | None
    """Ends every document; None for a given tokenizer that has no such token."""
    files: dict[str, int]
    """Name -> bytes of every other file of the folder."""


class PreparedLink(msgspec.Struct, frozen=True, kw_only=True):
    """What ``prepared.json`` of a run holds: the prepared data that it trains on."""

    directory: str
    fingerprint: str


class PreparedData:
    """An open prepared folder. Token files are memory-mapped, the tokenizer is loaded when asked for."""

    def __init__(self, folder: Path, manifest: PreparedManifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @cached_property
    def train(self) -> np.memmap[tuple[int], np.dtype[np.uint16 | np.uint32]]:
        """Training tokens, 1-D, read-only."""
        return self._tokens(TRAIN)

    @cached_property
    def validation(self) -> np.memmap[tuple[int], np.dtype[np.uint16 | np.uint32]]:
        """Held-out tokens, 1-D, read-only."""
        return self._tokens(VALIDATION)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; text that looks like a special token is encoded as the text that it is."""
        from engine.data.tokenizer import load_tokenizer  # noqa: PLC0415 - tokenizers only where text is touched

        return load_tokenizer(self.tokenizer_file)

    @property
    def tokenizer_file(self) -> Path:
        return self.folder / TOKENIZER

    def _tokens(self, name: str) -> np.memmap[tuple[int], np.dtype[np.uint16 | np.uint32]]:
        kind: npt.DTypeLike = np.dtype(self.manifest.dtype).newbyteorder("<")
        return np.memmap(self.folder / name, dtype=kind, mode="r")


def open_prepared(folder: Path) -> PreparedData:
    """Open a prepared folder after checking that every file has the size that the manifest says.

    Raises DataError where the folder is missing, incomplete or of another version.
    """
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=PreparedManifest)
    except FileNotFoundError:
        raise DataError("The prepared data is missing", f"there is no complete data in {folder}", _AGAIN) from None
    except (OSError, *UNREADABLE) as error:
        raise DataError("The prepared data cannot be read", f"{folder / MANIFEST}: {error}", _AGAIN) from None
    if manifest.schema != FORMAT:
        raise DataError(
            "The prepared data is of another version", f"{folder} has format {manifest.schema}, not {FORMAT}", _AGAIN
        )
    for name, size in manifest.files.items():
        file = folder / name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            said = "missing" if found is None else f"{found} bytes long"
            raise DataError("The prepared data is damaged", f"{file} is {said}; it should have {size} bytes", _AGAIN)
    return PreparedData(folder, manifest)


def read_prepared(run: RunDirectory) -> PreparedData:
    """The prepared data of a run.

    Raises DataError where the run has none yet, or what it points to is gone or damaged.
    """
    try:
        link = msgspec.json.decode(run.prepared.read_bytes(), type=PreparedLink)
    except FileNotFoundError:
        raise DataError("The data of this run is not prepared yet", f"{run.prepared} is missing", _AGAIN) from None
    except (OSError, *UNREADABLE) as error:
        raise DataError("The data of this run cannot be found", f"{run.prepared}: {error}", _AGAIN) from None
    prepared = open_prepared(Path(link.directory))
    if prepared.manifest.fingerprint != link.fingerprint:
        raise DataError(
            "The prepared data is not the run's",
            f"{link.directory} holds {prepared.manifest.fingerprint}, the run needs {link.fingerprint}",
            _AGAIN,
        )
    return prepared
