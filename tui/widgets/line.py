"""A line of text that keeps the order of keys that arrive together."""

from __future__ import annotations

from textual import events
from textual.widgets import Input

from tui.text import printable


class Line(Input):
    """Textual runs the bindings of a field only after a key has bubbled up: what was typed right after ``ctrl+u``
    is then deleted by it. Here the field's own keys act in the order in which they come, as they must where a slow
    connection delivers several at once.
    """

    def validate_value(self, value: str) -> str:
        """Nothing that is pasted acts on the terminal."""
        return printable(value, newlines=False)

    async def _on_key(self, event: events.Key) -> None:
        if not event.is_printable:
            for binding in self._bindings.key_to_bindings.get(event.key, ()):
                if await self.app.run_action(binding.action, default_namespace=self):
                    event.stop()
                    event.prevent_default()
                    return
        # Textual goes on to Input's own handler by itself.
