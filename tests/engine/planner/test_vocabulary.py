from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.contract.spec import TokenizerSpec
from engine.planner.vocabulary import expected_vocabulary, vocabulary_of_file


def write(path: Path, vocabulary: object, added: list[str]) -> Path:
    tokens = [{"id": at, "content": name, "special": True} for at, name in enumerate(added)]
    path.write_text(json.dumps({"version": "1.0", "added_tokens": tokens, "model": {"vocab": vocabulary}}))
    return path


def test_entries_and_added_tokens_are_counted_once(tmp_path: Path) -> None:
    path = write(tmp_path / "tokenizer.json", {"a": 0, "b": 1, "<eos>": 2}, ["<eos>", "<pad>"])
    assert vocabulary_of_file(path) == 4
    assert expected_vocabulary(TokenizerSpec(kind="file", file=str(path))) == (4, None)


def test_unigram_lists_its_entries(tmp_path: Path) -> None:
    assert vocabulary_of_file(write(tmp_path / "tokenizer.json", [["<unk>", 0.0], ["a", -1.5]], [])) == 2


def test_it_agrees_with_the_library(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")]))
    made.add_special_tokens(["<eos>"])
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    assert vocabulary_of_file(path) == made.get_vocab_size() == 4


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    write(path, {"a": 0}, [])
    assert vocabulary_of_file(path) == 1
    write(path, {"a": 0, "bcd": 1}, [])
    assert vocabulary_of_file(path) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": {}}', '{"model": {"vocab": 3}}', "\x00\x01"])
def test_what_is_no_tokenizer_is_unknown(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    assert vocabulary_of_file(path) is None


def test_a_missing_file_is_unknown(tmp_path: Path) -> None:
    assert vocabulary_of_file(tmp_path / "none.json") is None
    assert vocabulary_of_file(tmp_path) is None
    assert vocabulary_of_file(Path("a\0b")) is None
