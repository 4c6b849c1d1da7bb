"""The background readers: what they post, and that they are silent otherwise."""

from pathlib import Path

import pytest
from textual.message import Message
from textual.message_pump import MessagePump

from engine.contract.events import Codec
from engine.contract.journal import Journal
from engine.runs.home import runs_folder
from tests.tui.recorded import Clock, recorded_run, started, train
from tui import feeds


class Listener(MessagePump):
    """Takes messages from any thread, and keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Message] = []
        self.gone = False

    def post_message(self, message: Message) -> bool:
        self.heard.append(message)
        return not self.gone


def test_a_run_is_posted_once_and_then_only_what_is_new(tmp_path: Path) -> None:
    run = recorded_run(tmp_path, steps=20)
    listener = Listener()
    feed = feeds.RunFeed(listener, run)
    feed.round()
    first = listener.heard[-1]
    assert isinstance(first, feeds.RunChanged)
    assert first.batch.head is not None
    assert first.batch.complete
    assert first.batch.log
    heard = len(listener.heard)
    feed.round()
    assert len(listener.heard) == heard
    with Journal(run.events_of("rank0"), Clock()) as journal:
        journal.write(train(21))
    feed.round()
    last = listener.heard[-1]
    assert isinstance(last, feeds.RunChanged)
    assert len(listener.heard) == heard + 1
    assert [part.step for _, part in last.batch.parts] == [21]  # type: ignore[union-attr]


def test_a_long_run_comes_in_batches_of_which_the_last_is_complete(tmp_path: Path) -> None:
    run = recorded_run(tmp_path, steps=1)
    with Journal(run.events_of("rank0"), Clock()) as journal:
        journal.write(started())
    with run.events_of("rank0").open("ab") as file:
        file.writelines(Codec.encode(train(step)) for step in range(2, 40_000))
    listener = Listener()
    feeds.RunFeed(listener, run).round()
    complete = [message.batch.complete for message in listener.heard if isinstance(message, feeds.RunChanged)]
    assert len(complete) > 1
    assert complete == [False] * (len(complete) - 1) + [True]


def test_a_run_that_went_away_is_told_once(tmp_path: Path) -> None:
    run = recorded_run(tmp_path, steps=2)
    listener = Listener()
    feed = feeds.RunFeed(listener, run)
    feed.round()
    run.path.rename(tmp_path / "elsewhere")
    heard = len(listener.heard)
    feed.round()
    feed.round()
    assert len(listener.heard) == heard + 1
    last = listener.heard[-1]
    assert isinstance(last, feeds.RunChanged)
    assert last.batch.problem == "the directory of this run is gone"


def test_the_list_of_runs_is_posted_when_it_changes() -> None:
    folder = runs_folder()
    listener = Listener()
    feed = feeds.RunsFeed(listener)
    feed.round()
    feed.round()
    assert len(listener.heard) == 1
    recorded_run(folder, steps=5, state="finished")
    feed.round()
    feed.round()
    assert len(listener.heard) == 2
    last = listener.heard[-1]
    assert isinstance(last, feeds.RunsChanged)
    assert [(status.name, status.state, status.step) for status in last.statuses] == [("quickstart", "finished", 5)]


def test_devices_are_read() -> None:
    listener = Listener()
    feed = feeds.DevicesFeed(listener)
    feed.round()
    feed.close()
    found = listener.heard[-1]
    assert isinstance(found, feeds.DevicesChanged)
    assert found.machine.devices[-1].kind == "cpu"


def test_a_feed_ends_when_nobody_listens() -> None:
    listener = Listener()
    listener.gone = True
    feed = feeds.RunsFeed(listener)
    feed.loop()
    assert feed.stopped


def test_a_stopped_feed_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener()
    feed = feeds.RunsFeed(listener)
    feed.stop()
    feed.loop()
    assert listener.heard == []


class Stumbling(feeds.Feed):
    """Fails in the ways given, one for each round, then ends."""

    seconds = 0.0

    def __init__(self, target: MessagePump, *failures: Exception | None) -> None:
        super().__init__(target)
        self._failures = list(failures)

    def round(self) -> None:
        failure = self._failures.pop(0)
        if not self._failures:
            self.stop()
        if failure is not None:
            raise failure


def test_a_round_that_fails_is_told_once_and_the_next_is_tried() -> None:
    listener = Listener()
    same, other = ValueError("damaged"), KeyError("other")
    Stumbling(listener, same, ValueError("damaged"), other, None, same).loop()
    told = [message.error for message in listener.heard if isinstance(message, feeds.FeedFailed)]
    assert told == [same, other, same]
