import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.contract.errors import DataError, SpecError
from engine.contract.events import DataReady, Event, Notice, Progress
from engine.data import shards
from engine.data.batches import Batches
from engine.data.cache import cache_folder
from engine.data.prepare import prepare
from engine.data.prepared import open_prepared
from engine.runs.home import data_cache

STORIES = [f"Story {number}: a hen laid {number * number} eggs and ½ 漢字.\n" for number in range(200)]


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    path = tmp_path / "stories.jsonl"
    path.write_text("".join(json.dumps({"text": story}) + "\n" for story in STORIES))
    return path


@pytest.mark.parametrize("kind", ["bytes", "characters", "bpe", "wordpiece", "unigram"])
def test_every_document_is_packed_once_in_order(
    kind: str, stories: Path, prepared: Any, spec_for: Any, decoded: Any
) -> None:
    data = prepared(spec_for(stories, {"kind": kind, "vocabulary": 500}, validation_fraction=0.1))
    train, validation = decoded(data)
    assert len(validation) == 20
    assert train == [story for story in STORIES if story not in set(validation)]
    assert validation == [story for story in STORIES if story in set(validation)]
    manifest = data.manifest
    assert manifest.documents == 200
    assert manifest.bytes == sum(len(story.encode()) for story in STORIES)
    assert manifest.train_bytes == sum(len(story.encode()) for story in train)
    assert (manifest.train_tokens, manifest.validation_tokens) == (len(data.train), len(data.validation))
    assert manifest.vocabulary > int(data.train.max())
    assert manifest.unknown_rate == (None if kind in ("bytes", "bpe") else 0.0)
    assert data.train.dtype == np.uint16
    assert Batches(data.train, 8, 1).batch([0, 1]).shape == (2, 9)
    ready = prepared.events[-1]
    assert isinstance(ready, DataReady)
    assert (ready.directory, ready.cached) == (str(data.folder), False)
    assert (ready.train_tokens, ready.bytes) == (manifest.train_tokens, manifest.bytes)


def test_the_same_content_is_prepared_once(stories: Path, tmp_path: Path, prepared: Any, spec_for: Any) -> None:
    first = prepared(spec_for(stories))
    written = (first.folder / "train.bin").stat().st_mtime_ns
    again = prepared(spec_for(stories, sequence_length=16))
    assert again.folder == first.folder
    assert prepared.events[-1].cached
    other = tmp_path / "elsewhere" / "renamed.jsonl"
    other.parent.mkdir()
    other.write_bytes(stories.read_bytes())
    assert prepared(spec_for(other)).folder == first.folder
    assert (first.folder / "train.bin").stat().st_mtime_ns == written
    assert [path.name for path in first.folder.parent.glob("building-*")] == []


@pytest.mark.parametrize(
    "change",
    [
        {"validation_fraction": 0.3},
        {"max_documents": 50},
        {"tokenizer": {"kind": "characters"}},
        {"tokenizer": {"kind": "bpe", "vocabulary": 400}},
        {"content": "\n".join(json.dumps({"text": story}) for story in STORIES[1:])},
    ],
)
def test_what_decides_the_tokens_gives_another_folder(
    change: dict[str, Any], stories: Path, prepared: Any, spec_for: Any
) -> None:
    first = prepared(spec_for(stories))
    if content := change.pop("content", None):
        stories.write_text(content)
    assert prepared(spec_for(stories, **change)).folder != first.folder


def test_the_split_depends_on_the_texts_alone(tmp_path: Path, prepared: Any, spec_for: Any, decoded: Any) -> None:
    def prepare(name: str, texts: list[str]) -> tuple[list[str], list[str]]:
        path = tmp_path / name
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        pair: tuple[list[str], list[str]] = decoded(prepared(spec_for(path, validation_fraction=0.2)))
        return pair

    forwards, backwards = prepare("a.jsonl", STORIES), prepare("b.jsonl", STORIES[::-1])
    assert set(forwards[1]) == set(backwards[1])
    doubled_train, doubled_validation = prepare("c.jsonl", STORIES * 3)
    assert not set(doubled_train) & set(doubled_validation)  # equal texts stay on one side
    assert len(doubled_train) + len(doubled_validation) == 600


@pytest.mark.parametrize("texts", [["common"] * 50 + ["rare"], ["rare"] + ["common"] * 50, ["a", "b"]])
def test_both_sides_get_a_document(
    texts: list[str], tmp_path: Path, prepared: Any, spec_for: Any, decoded: Any
) -> None:
    path = tmp_path / "few.jsonl"
    path.write_text("".join(json.dumps({"text": text * 20}) + "\n" for text in texts))
    for fraction in (0.001, 0.5, 0.999):
        train, validation = decoded(prepared(spec_for(path, validation_fraction=fraction)))
        assert train
        assert validation
        assert len(train) + len(validation) == len(texts)
        assert not set(train) & set(validation)


def test_one_document_cannot_be_split(tmp_path: Path, prepared: Any, spec_for: Any) -> None:
    path = tmp_path / "one.jsonl"
    path.write_text('{"text": "all there is"}\n')
    with pytest.raises(DataError, match="one document"):
        prepared(spec_for(path))
    path.write_text('{"text": "the same"}\n' * 9)
    with pytest.raises(DataError, match="9 equal documents"):
        prepared(spec_for(path))


def test_one_text_file_is_split_too(tmp_path: Path, prepared: Any, spec_for: Any, decoded: Any) -> None:
    path = tmp_path / "book.txt"
    text = "".join(f"Line {number} of the book.\n" + "\n" * (number % 7 == 0) for number in range(5000))
    path.write_text(text)
    data = prepared(spec_for(path))
    train, validation = decoded(data)
    assert validation
    assert data.manifest.bytes == len(text)
    assert sorted(train + validation, key=text.index) == [
        text[start:end] for start, end in _spans(text, train + validation)
    ]


def _spans(text: str, pieces: list[str]) -> list[tuple[int, int]]:
    starts = sorted(text.index(piece) for piece in pieces)
    assert starts[0] == 0
    return list(zip(starts, [*starts[1:], len(text)], strict=True))


def test_only_the_first_documents_are_taken(
    stories: Path, prepared: Any, spec_for: Any, decoded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 1000)
    for kind in ("bytes", "characters", "bpe"):
        data = prepared(spec_for(stories, {"kind": kind, "vocabulary": 400}, max_documents=31, validation_fraction=0.1))
        train, validation = decoded(data)
        assert sorted(train + validation, key=STORIES.index) == STORIES[:31]
        assert data.manifest.documents == 31
        assert data.manifest.unknown_rate in (None, 0.0)


def test_unknown_tokens_are_counted_in_the_documents_that_are_taken(
    tmp_path: Path, prepared: Any, spec_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 1000)
    texts = ["a hen " * 16 + ("?" * 5 if number >= 15 else "a" * number) for number in range(24)]
    for name, count in (("known", 15), ("strange", 24)):
        lines = [json.dumps({"text": text}) + "\n" for text in texts[:count]]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    known = prepared(spec_for(tmp_path / "known.jsonl", {"kind": "characters"}))
    tokenizer = {"kind": "file", "file": str(known.tokenizer_file)}
    for count, unknown in ((15, 0), (17, 10)):
        manifest = prepared(spec_for(tmp_path / "strange.jsonl", tokenizer, max_documents=count)).manifest
        tokens = manifest.train_tokens + manifest.validation_tokens
        assert manifest.unknown_rate == pytest.approx(unknown / tokens)


def test_a_given_tokenizer_is_used_as_it_is(tmp_path: Path, stories: Path, prepared: Any, spec_for: Any) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["<s>", "[UNK]", "Story", "hen", "eggs", "a"]
    given = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    given.pre_tokenizer = pre_tokenizers.Whitespace()
    given.add_special_tokens(["<s>"])
    given.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    given.enable_truncation(3)
    file = tmp_path / "given.json"
    given.save(str(file))
    data = prepared(spec_for(stories, {"kind": "file", "file": str(file)}))
    assert data.manifest.vocabulary == 6
    assert data.manifest.eos_id is None
    assert 0 not in data.train  # nothing is added in front of documents
    assert len(data.train) > 3 * 190  # and nothing cut off
    assert 0.3 < data.manifest.unknown_rate < 0.9
    assert any(isinstance(event, Notice) and "end-of-document" in event.message for event in prepared.events)
    file.write_text("{}")
    with pytest.raises(DataError, match=r"given\.json"):
        prepared(spec_for(stories, {"kind": "file", "file": str(file)}))


def test_a_large_vocabulary_takes_wider_tokens(tmp_path: Path, prepared: Any, spec_for: Any, decoded: Any) -> None:
    path = tmp_path / "signs.jsonl"
    signs = [chr(code) for code in range(0x4E00, 0x4E00 + 20_000)] + [chr(code) for code in range(0x20000, 0x2C000)]
    texts = ["".join(signs[start : start + 700]) for start in range(0, len(signs), 700)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    data = prepared(spec_for(path, {"kind": "characters"}))
    assert data.manifest.dtype == "uint32"
    assert data.manifest.vocabulary == len(signs) + 2
    train, validation = decoded(data)
    assert sorted(train + validation) == sorted(texts)


def test_too_little_text_says_how_much_there_is(stories: Path, prepared: Any, spec_for: Any) -> None:
    with pytest.raises(DataError, match="validation sample") as caught:
        prepared(spec_for(stories, sequence_length=5000))
    assert "takes 5001" in caught.value.message
    assert "validation_fraction" in caught.value.hint
    with pytest.raises(DataError, match="training sample"):
        prepared(spec_for(stories, sequence_length=1_000_000))


def test_a_model_with_too_few_embeddings_is_refused(stories: Path, prepared: Any, spec_for: Any) -> None:
    from engine.contract.specfile import override_spec

    spec = override_spec(spec_for(stories, {"kind": "characters"}), ["model.vocabulary=10"])
    with pytest.raises(DataError, match=r"model\.vocabulary is 10") as caught:
        prepared(spec)
    assert "leave model.vocabulary out" in caught.value.hint


def test_a_missing_source_is_a_problem_of_its_field(tmp_path: Path, prepared: Any, spec_for: Any) -> None:
    with pytest.raises(SpecError) as caught:
        prepared(spec_for(tmp_path / "nowhere.txt"))
    assert caught.value.problems[0].field == "data.source"


def test_a_damaged_folder_is_noticed_and_made_anew(stories: Path, prepared: Any, spec_for: Any) -> None:
    data = prepared(spec_for(stories))
    content = (data.folder / "train.bin").read_bytes()
    (data.folder / "train.bin").write_bytes(content[:-2])
    with pytest.raises(DataError, match=r"train\.bin"):
        open_prepared(data.folder)
    prepared(spec_for(stories))
    assert not prepared.events[-1].cached
    assert (data.folder / "train.bin").read_bytes() == content


def test_progress_grows_to_the_whole(stories: Path, prepared: Any, spec_for: Any) -> None:
    prepared(spec_for(stories))
    bars = [event for event in prepared.events if isinstance(event, Progress) and event.what == "tokenizing"]
    assert [event.done for event in bars] == sorted(event.done for event in bars)
    assert bars[-1].done == bars[-1].total == stories.stat().st_size


def test_the_cache_is_where_the_home_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == data_cache()
    monkeypatch.setenv("TRAINDECK_HOME", " ")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    assert cache_folder() == data_cache()


def test_data_that_changes_meanwhile_is_refused(stories: Path, spec_for: Any, home: Path) -> None:
    def interfere(event: Event) -> None:
        if isinstance(event, Progress) and event.what == "tokenizing" and event.done == event.total:
            stories.write_text(stories.read_text() + '{"text": "one more"}\n')

    with pytest.raises(DataError, match="changed while it was read"):
        prepare(spec_for(stories), home / "data", interfere)
    assert [path.name for path in (home / "data").iterdir()] == ["locks"]


def test_half_made_data_of_long_ago_is_removed(stories: Path, prepared: Any, spec_for: Any, home: Path) -> None:
    old, recent = home / "data" / "building-old", home / "data" / "building-recent"
    for folder in (old, recent):
        (folder / "parts").mkdir(parents=True)
    os.utime(old, (0, 0))
    (home / "data" / "building-gone").symlink_to(home / "nowhere")  # as one that goes while it is looked at
    prepared(spec_for(stories))
    assert recent.exists()
    assert not old.exists()
