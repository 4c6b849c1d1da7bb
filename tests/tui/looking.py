"""What is on the screen of an app under test, and waiting for what threads bring about."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from textual.app import App
from textual.pilot import Pilot

SECONDS = 20.0
"""How long a thread may take on a machine that is busy with other things."""


def shown(app: App[Any]) -> list[str]:
    """The lines of the screen without their colours."""
    return ["".join(segment.text for segment in strip) for strip in app.screen._compositor.render_strips()]


def text(app: App[Any]) -> str:
    """The screen as one text."""
    return "\n".join(shown(app))


async def until(pilot: Pilot[Any], met: Callable[[], bool]) -> None:
    """Wait until ``met``; what is on the screen is told if it never is."""
    deadline = time.monotonic() + SECONDS
    while not met():
        assert time.monotonic() < deadline, text(pilot.app)
        await asyncio.sleep(0.01)
    await pilot.pause()
