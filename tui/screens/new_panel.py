"""What stands beside the form: size, memory, cost and command of the training as it is typed now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.reactive import reactive
from textual.widgets import Button, Static

from engine.contract.layout import Layout
from tui.draft import FIELDS
from tui.judge import Verdict
from tui.mesh import mesh_rows, sizes_of
from tui.summary import batch_words, layout_summary, memory_levers, shape_summary
from tui.text import UNKNOWN, ascii_wanted, human_bytes, human_count, human_duration, printable, wrap_words
from tui.widgets.glyphs import bar, glyphs

if TYPE_CHECKING:
    from engine.planner.estimate import Estimate

LABEL = 8
BAR = 20
MESH_LINES = 14
WIDE = 40
"""Cells of a panel from which on the mesh stands under the words of the layout, not under their label."""
_MESH_STYLES = {
    "label": "$secondary", "frame": "$foreground 25%", "train": "bold $primary", "validation": "bold $warning",
    "third": "$success", "fourth": "$accent",
}  # fmt: skip
"""The colours that the panes of the monitor give to these names."""


class Panel(Vertical):
    """See the module. :attr:`verdict` and :attr:`help_text` are set by the screen."""

    verdict: reactive[Verdict | None] = reactive(None)
    help_text: reactive[str] = reactive("")

    def __init__(self, start: str) -> None:
        """``start`` is what stands on the button."""
        super().__init__()
        self._start = start

    def compose(self) -> ComposeResult:
        with VerticalScroll(can_focus=False, id="facts-scroll"):
            yield Static("", id="facts", markup=False)
        yield Static("", id="field-help", markup=False)
        yield Button(self._start, id="start", variant="primary")

    def watch_verdict(self) -> None:
        self._draw()

    def watch_help_text(self) -> None:
        static = self.query_one("#field-help", Static)
        static.update(printable(self.help_text))
        static.display = bool(self.help_text)

    @on(events.DescendantFocus)
    def _start_focused(self) -> None:
        self.help_text = "Press enter to start. The training runs by itself: it goes on when this window is closed."

    def on_resize(self) -> None:
        self._draw()

    def _draw(self) -> None:
        if self.verdict is not None:
            width = max(24, self.query_one("#facts-scroll").scrollable_content_region.width)
            self.query_one("#facts", Static).update(facts(self.verdict, width))


def facts(verdict: Verdict, width: int) -> Content:
    """All lines of the panel for a panel of ``width`` cells."""
    lines: list[Content] = []
    if verdict.problems:
        lines += _problem_lines(verdict, width)
    lines += _model_lines(verdict, width)
    if verdict.estimate is not None:
        lines += _estimate_lines(verdict, verdict.estimate, width)
    lines += [Content(""), Content.styled("Command", "$secondary")]
    lines += [Content(line) for line in wrap_words(printable(verdict.command, newlines=False), width)]
    return Content("\n").join(lines)


def _fact(label: str, text: str, width: int, style: str = "") -> list[Content]:
    if not text:
        return []
    first, *rest = [line.replace("\u00a0", " ") for line in wrap_words(text, width - LABEL)] or [""]
    lines = [Content.assemble((label.ljust(LABEL), "$secondary"), (first, style))]
    return lines + [Content.assemble(" " * LABEL, (line, style)) for line in rest]


def _problem_lines(verdict: Verdict, width: int) -> list[Content]:
    count = len(verdict.problems)
    mark = "!" if ascii_wanted() else "✘"
    lines = [Content.styled(f"{mark} {count} thing{'s' if count > 1 else ''} to mend", "bold $error")]
    for problem in verdict.problems[:4]:
        field = FIELDS.get(problem.field)
        hidden = field is not None and not field.main and not field.name.startswith("layout.")
        words = f"{field.label if field else problem.field}: {problem.message}"
        if hidden and problem.hint:
            words += f" ({problem.hint})"
        lines += [Content.styled(f"  {line}", "$error") for line in wrap_words(printable(words), width - 2)]
    if count > 4:
        lines.append(Content.styled(f"  and {count - 4} more", "$error"))
    return [*lines, Content("")]


def _model_lines(verdict: Verdict, width: int) -> list[Content]:
    if verdict.shape is None or verdict.parameters is None:
        return _fact("Model", UNKNOWN, width)
    return [
        *_fact("Model", f"{verdict.parameters:,} parameters", width, "bold"),
        *_fact("", shape_summary(verdict.shape), width, "$secondary"),
    ]


def _estimate_lines(verdict: Verdict, found: Estimate, width: int) -> list[Content]:
    layout = found.layout
    words = layout_summary(layout)
    for axis, size in sizes_of(layout).items():
        words = words.replace(f"{axis} {size}", f"{axis}\u00a0{size}")
    length = verdict.spec.data.sequence_length
    return [
        Content(""),
        *_fact("Layout", words, width),
        *_fact("", memory_levers(layout), width, "$secondary"),
        *_mesh_lines(layout, width),
        Content(""),
        *_memory_lines(found, width),
        Content(""),
        *_fact("Batch", batch_words(layout), width),
        *_fact("Step", f"{layout.batch_size} x {length} = {found.tokens_per_step:,} tokens", width),
        *_fact("Total", _total_words(verdict, found), width),
    ]


def _mesh_lines(layout: Layout, width: int) -> list[Content]:
    """Which rank sits where, as the monitor paints it."""
    indent = LABEL if width >= WIDE else 0
    rows = mesh_rows(layout, width - indent, MESH_LINES, glyphs())
    return [
        Content.assemble(" " * indent, *((text, _MESH_STYLES.get(style, "")) for text, style in row)) for row in rows
    ]


def _total_words(verdict: Verdict, found: Estimate) -> str:
    budget = verdict.spec.budget
    parts = []
    if found.steps is not None:
        parts.append(f"{found.steps:,} steps")
    if found.tokens_total is not None:
        parts.append(f"{human_count(found.tokens_total)} tokens")
    if budget.max_epochs is not None:
        parts.append(f"at most {budget.max_epochs:g} epochs")
    if budget.max_seconds is not None:
        parts.append(f"at most {human_duration(budget.max_seconds)}")
    return ", ".join(parts) or UNKNOWN


def _memory_bar(share: float, width: int) -> Content:
    tone = "$error" if share > 1 else "$warning" if share > 0.85 else "$success"
    filled, rest = bar(share, width, glyphs())
    return Content.assemble(" " * LABEL, (filled, tone), (rest, "$secondary"))


def _memory_lines(found: Estimate, width: int) -> list[Content]:
    """Of the device that needs most; on a CPU of all processes together, for they share its memory."""
    available, needed, several = found.available_bytes, found.needed_bytes, found.layout.world_size > 1
    shared, least = found.layout.accelerator == "cpu", min(found.memory_bytes)
    uneven = least < max(found.memory_bytes)
    of = "" if shared or not several else " at most" if uneven else " a device"
    lines = _fact("Memory", f"about {human_bytes(needed)}{of}", width, "bold")
    if available:
        lines.append(_memory_bar(needed / available, min(BAR, width - LABEL)))
    if uneven and shared:
        lines += _fact("", f"{human_bytes(least)} to {human_bytes(max(found.memory_bytes))} each", width, "$secondary")
    elif uneven:
        fullest = found.memory_bytes.index(max(found.memory_bytes))
        lines += _fact("", f"of rank {fullest}; least {human_bytes(least)}", width, "$secondary")
    elif several and shared:
        lines += _fact("", f"{human_bytes(found.memory.total_bytes)} a process", width, "$secondary")
    place = "" if found.where == "this machine" else f" on {found.where}"
    free = f"{human_bytes(available)} free{place}"
    marks = ("+", "!", "?") if ascii_wanted() else ("✔", "✘", "?")
    if found.fits is None:
        lines += _fact("", f"{marks[2]} unknown whether it fits", width, "$warning")
    elif found.fits:
        lines += _fact("", f"{marks[0]} fits in {free}", width, "$success")
    else:
        lines += _fact("", f"{marks[1]} does not fit in {free}", width, "$error")
    return lines
