"""Networks to and from Hugging Face folders: ``config.json``, ``model.safetensors``, tokenizer files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from engine.contract.durable import write_durably
from engine.contract.errors import ModelError
from engine.contract.records import UNREADABLE
from engine.contract.shape import ModelShape
from engine.data.special import EOS_NAMES, UNKNOWN
from engine.model.hf_config import config_of, shape_of
from engine.model.hf_weights import Weights, from_huggingface, to_huggingface

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_UNKNOWN_NAMES = (UNKNOWN, "[UNK]")


def export_folder(
    model: nn.Module, shape: ModelShape, folder: Path, tokenizer_file: Path | None, *, eos_id: int | None = None
) -> None:
    """Write ``model`` so that transformers' ``AutoModelForCausalLM`` and ``AutoTokenizer`` load it.

    Each file is written aside and renamed; ``config.json`` comes last. ``eos_id`` None is looked up in the
    tokenizer. Raises ModelError for networks that transformers does not have, and for a folder that cannot be written.
    """
    tokenizer = _load_tokenizer(tokenizer_file)
    eos = _first_token(tokenizer, EOS_NAMES)
    if eos is not None and eos_id is None:
        eos_id = eos[1]
    state = model.state_dict()
    dtype = str(next(iter(state.values())).dtype).removeprefix("torch.")
    config = config_of(shape, dtype=dtype, eos_id=eos_id)
    weights = to_huggingface(state, shape)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _save_weights(weights, folder / WEIGHTS)
        if tokenizer is not None and tokenizer_file is not None:
            write_durably(folder / "tokenizer.json", tokenizer_file.read_bytes())
            _write_json(folder / "tokenizer_config.json", _tokenizer_config(tokenizer, shape))
        generation = {} if eos_id is None else {"eos_token_id": eos_id, "pad_token_id": eos_id}
        _write_json(folder / "generation_config.json", generation)
        _write_json(folder / "config.json", config)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            "The model could not be exported", f"{folder}: {error}", "Check free space and rights"
        ) from error


def import_folder(folder: Path) -> tuple[ModelShape, dict[str, Tensor]]:
    """Shape and weights of a GPT-2 or Llama folder, for ``build_model(shape, ...).load_state_dict(weights)``.

    Weights keep the precision of the file. Only safetensors are read: other formats can run code.
    Raises ModelError for anything that is missing, damaged, or of another architecture.
    """
    path = folder / "config.json"
    try:
        config = path.read_bytes()
    except OSError as error:
        hint = "Give a folder with config.json and model.safetensors"
        raise ModelError("This is not a model folder", f"{path}: {error.strerror}", hint) from None
    shape = shape_of(config, str(path))
    return shape, from_huggingface(_read_weights(folder), shape, str(folder))


def _read_weights(folder: Path) -> Weights:
    weights: Weights = {}
    for path in _weight_files(folder):
        try:
            weights |= load_file(path)
        except (OSError, SafetensorError) as error:
            raise ModelError("A weight file cannot be read", f"{path}: {error}", "Copy it anew") from None
    return weights


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / INDEX
    if index.is_file():
        try:
            names = set(msgspec.json.decode(index.read_bytes(), type=_Index).weight_map.values())
        except (OSError, *UNREADABLE) as error:
            raise ModelError("The list of weight files cannot be read", f"{index}: {error}", "Copy it anew") from None
        for name in names:
            if Path(name).name != name:
                raise ModelError("A weight file lies outside its folder", f"{index} names {name!r}")
        return [folder / name for name in sorted(names)]
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        raise ModelError(
            "These weights are pickled, and loading them could run foreign code",
            f"{folder} has no safetensors file",
            "If you trust them, convert them once where transformers is installed:\n"
            f"AutoModelForCausalLM.from_pretrained({str(folder)!r}).save_pretrained('converted')",
        )
    raise ModelError("There are no weights", f"{folder} has no {WEIGHTS}", "Copy the whole folder")


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def _load_tokenizer(file: Path | None) -> Tokenizer | None:
    if file is None:
        return None
    try:
        return Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except Exception as error:  # the tokenizers library raises bare Exception for a damaged file
        raise ModelError("The tokenizer cannot be read", f"{file}: {error}") from error


def _first_token(tokenizer: Tokenizer | None, names: tuple[str, ...]) -> tuple[str, int] | None:
    found = ((name, tokenizer.token_to_id(name)) for name in names if tokenizer is not None)
    return next(((name, number) for name, number in found if number is not None), None)


def _tokenizer_config(tokenizer: Tokenizer, shape: ModelShape) -> dict[str, Any]:
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": shape.positions,
        "clean_up_tokenization_spaces": False,
    }
    for role, names in (("eos_token", EOS_NAMES), ("unk_token", _UNKNOWN_NAMES)):
        if (token := _first_token(tokenizer, names)) is not None:
            config[role] = token[0]
    return config


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_durably(path, json.dumps(content, indent=2).encode() + b"\n")


def _save_weights(weights: Weights, path: Path) -> None:
    """As :func:`write_durably` does, without a second copy of the weights in memory; the folder is synced later."""
    part = path.with_name(f".{path.name}.part")
    try:
        save_file(weights, part, metadata={"format": "pt"})
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
