"""``attach`` and ``logs``: watching a run that is there."""

from __future__ import annotations

import time
from collections import deque

from engine.contract.rundir import RunDirectory
from engine.contract.states import LIVE
from engine.runs.state import read_state
from engine.runs.status import find_run, read_status
from tui.commands.following import Following
from tui.commands.listing import status_text
from tui.commands.opening import open_app
from tui.commands.output import in_terminal, note, say
from tui.follow import LogTail
from tui.text import printable

POLL_SECONDS = 0.25


def attach(name: str, *, once: bool, plain: bool) -> None:
    """Watch a run in the app, or as lines, or look once."""
    run = find_run(name)
    if once:
        picture(run)
    elif in_terminal() and not plain:
        open_app(run.path)
    else:
        _follow(run)


def _follow(run: RunDirectory) -> None:
    following = Following(run)
    following.catch_up()
    say(status_text(read_status(run)))
    if following.view.state in LIVE:
        say()
        follow_or_detach(following)


def follow_or_detach(following: Following, *, to_stderr: bool = False) -> bool:
    """Follow a run to its end; ctrl-c leaves it alone and says how to come back. Whether it has ended."""
    try:
        following.follow(note if to_stderr else say)
    except KeyboardInterrupt:
        run = printable(following.run.id, newlines=False)
        note("\ndetached: the training goes on")
        note(f"  come back   traindeck attach {run}\n  end it      traindeck stop {run}")
        return False
    return True


def picture(run: RunDirectory) -> None:
    """The monitor as text: where the run stands, its curves, its last sample."""
    from tui.still import still_charts  # noqa: PLC0415 - only a picture needs the plotting library

    following = Following(run)
    following.catch_up()
    say(status_text(read_status(run)))
    say()
    say(still_charts(following.view))


def logs(name: str, *, follow: bool, lines: int) -> None:
    """The last lines of the output of a run's processes, and with ``follow`` what is added until it ends."""
    run = find_run(name)
    tail = LogTail(run.log, tail_bytes=max(256 << 10, lines * 400))
    begun = tail.read()
    if not begun:
        note("the log is empty so far")
    for line in deque(begun, maxlen=lines):
        say(printable(line, newlines=False))
    while follow:
        ended = read_state(run)[0] not in LIVE  # looked at before reading: what is written last is not missed
        new = tail.read()
        for line in new:
            say(printable(line, newlines=False))
        if ended and not new:
            return
        if not new:
            time.sleep(POLL_SECONDS)
