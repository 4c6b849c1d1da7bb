"""The pane of texts: the log, what happened, samples of the model's writing, and why a run failed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal

from textual.binding import Binding, BindingType
from textual.reactive import reactive

from tui.state import RunView
from tui.text import printable, wrap, wrap_words
from tui.widgets.painted import Painted, Row

Page = Literal["log", "events", "samples", "failure"]
LOG_LINES = 5000
"""Of the log as many lines are kept at least; the rest is in its file."""
_TOP = 1 << 30


class Pages(Painted, can_focus=True):
    """Several pages of text in one frame; shows the end until someone scrolls up."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "scroll_by(1)", "Up", show=False),
        Binding("down,j", "scroll_by(-1)", "Down", show=False),
        Binding("pageup,ctrl+b", "scroll_page(1)", "Page up", show=False),
        Binding("pagedown,ctrl+f", "scroll_page(-1)", "Page down", show=False),
        Binding("home,g", f"scroll_by({_TOP})", "First", show=False),
        Binding("end,G", f"scroll_by(-{_TOP})", "Last", show=False),
        Binding("left,h", "turn(-1)", "Previous page", show=False),
        Binding("right", "turn(1)", "Next page", show=False),
    ]
    page: reactive[Page] = reactive[Page]("log", init=False)

    def __init__(self, view: RunView, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.view = view
        self._log: list[str] = []
        self._count = 0
        """Rows of the page, whether in sight or not."""
        self._up = 0
        """Lines between the last one shown and the end."""

    def add_log(self, lines: Iterable[str]) -> None:
        """Take in new lines of the log, neutralising what a terminal would act on."""
        added = [printable(line, newlines=False) for line in lines]
        self._log += added
        if len(self._log) > 2 * LOG_LINES:
            del self._log[:-LOG_LINES]
        if self._up and self.page == "log":
            self._up += len(added)  # what is being read stays where it is

    def names(self) -> list[Page]:
        """The pages there are."""
        names: list[Page] = ["log", "events", "samples"]
        return ["failure", *names] if self.view.failure is not None and not self.view.is_live else names

    def watch_page(self) -> None:
        self._up = _TOP if self.page == "failure" else 0
        self.repaint()

    def action_turn(self, step: int) -> None:
        names = self.names()
        place = names.index(self.page) if self.page in names else 0
        self.page = names[(place + step) % len(names)]

    def action_scroll_by(self, lines: int) -> None:
        most = max(0, self._count - max(1, self.size.height - 2))
        self._up = max(0, min(self._up + lines, most))
        self.repaint()

    def action_scroll_page(self, pages: int) -> None:
        self.action_scroll_by(pages * max(1, self.size.height - 3))

    def heading(self) -> Row:
        row: Row = []
        for name in self.names():
            on = name == self.page
            row.append((f"  {name}" if row else name, "tab-on" if on else "tab"))
            if on:
                row[-1] = (row[-1][0].replace(name, f"[{name}]"), "tab-on")
        return row

    def aside(self, room: int) -> Row:
        del room
        return [(f"{self._up:,} lines below", "warning")] if self._up else []

    def content(self, width: int, height: int) -> Sequence[Row]:
        rows = self._page_rows(width, height)
        if not rows:
            empty = {"log": "the log is empty", "events": "nothing has happened yet",
                     "samples": "no samples yet: they come with evaluations and checkpoints"}  # fmt: skip
            return [[(empty.get(self.page, ""), "label")]]
        self._up = min(self._up, max(0, self._count - height))
        end = len(rows) - self._up if self.page != "log" else len(rows)
        return rows[max(0, end - height) : end]

    def _page_rows(self, width: int, height: int) -> list[Row]:
        """All rows of the page, or of the long log those that are in sight; ``_count`` says how many there are."""
        if self.page == "log":
            self._count = len(self._log)
            end = self._count - min(self._up, max(0, self._count - height))
            return [[(line, _log_style(line))] for line in self._log[max(0, end - height) : end]]
        if self.page == "events":
            rows = self._event_rows()
        elif self.page == "samples":
            rows = self._sample_rows(width)
        else:
            rows = failure_rows(self.view, width, self.signs.error)
        self._count = len(rows)
        return rows

    def _event_rows(self) -> list[Row]:
        styles = {"warning": "warning", "error": "bad"}
        marks = {"warning": self.signs.warning, "error": self.signs.error}
        return [
            [
                (time.strftime("%H:%M:%S ", time.localtime(event.when)), "label"),
                (f"{marks.get(event.level, self.signs.info)} ", styles.get(event.level, "label")),
                (printable(event.text, newlines=False), styles.get(event.level, "text")),
                ("" if event.step is None else f"  step {event.step:,}", "label"),
            ]
            for event in self.view.recent_happenings()
        ]

    def _sample_rows(self, width: int) -> list[Row]:
        rows: list[Row] = []
        for sample in self.view.samples:
            rows.append([(f"step {sample.step or 0:,}", "label")])
            text = printable(sample.prompt + sample.text)
            for number, line in enumerate(wrap(text, width)):
                begun = len(sample.prompt.split("\n")[0]) if number == 0 else 0
                rows.append([(line[:begun], "label"), (line[begun:], "text")])
        return rows


def _log_style(line: str) -> str:
    lowered = line[:200].lower()
    if "error" in lowered or "traceback" in lowered:
        return "bad"
    return "warning" if "warning" in lowered else "text"


def words(text: str, width: int) -> list[str]:
    """``text`` broken into lines at words, and at its own line ends."""
    return [part for line in text.split("\n") for part in wrap_words(line, max(2, width)) or [""]]


def failure_rows(view: RunView, width: int, mark: str) -> list[Row]:
    """Title, what happened, what to do, and the last lines of the log, each wrapped to ``width``."""
    failure = view.failure
    if failure is None:
        return []
    title = failure.title if failure.rank is None else f"{failure.title} (rank {failure.rank})"
    rows: list[Row] = [[(f"{mark} {line}", "bad")] for line in words(printable(title, newlines=False), width - 2)]
    for text, style in ((failure.message, "text"), (failure.hint, "accent")):
        if text:
            rows += [[(line, style)] for line in words(printable(text), width)]
    if failure.log_tail:
        rows += [[], [("last lines of the log", "label")]]
        rows += [[(printable(line, newlines=False), "label")] for line in failure.log_tail]
    return rows
