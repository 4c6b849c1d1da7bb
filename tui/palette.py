"""The command palette: every action of the registry that makes sense on the screen in front."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

from textual.command import DiscoveryHit, Hit, Hits, Provider

from tui.actions import ANYWHERE, Action, actions_of, key_text


class ActionProvider(Provider):
    """Finds actions by title and by what they do."""

    async def discover(self) -> Hits:
        for action in self._offered():
            yield DiscoveryHit(self._title(action), self._runner(action), help=action.help)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for action in self._offered():
            title = self._title(action)
            score = max(matcher.match(title), matcher.match(action.help) * 0.8)
            if score > 0:
                yield Hit(score, matcher.highlight(title), self._runner(action), help=action.help)

    def _offered(self) -> Iterator[Action]:
        place = getattr(self.screen, "PLACE", "")
        for action in (*actions_of(place), *actions_of(ANYWHERE)):
            if not action.palette:
                continue
            if not self._possible(action):
                if (refusal := self._refusal(action)) is not None:
                    yield replace(action, help=refusal)
                continue
            title_of = getattr(self.screen, "title_of", None)
            title = action.title if title_of is None else title_of(action.name, action.title)
            if title is not None:
                yield replace(action, title=title)

    def _possible(self, action: Action) -> bool:
        node = self.app if action.name.startswith("app.") else self.screen
        name, _, rest = action.name.removeprefix("app.").partition("(")
        arguments = (rest.rstrip(")").strip("'\""),) if rest else ()
        return node.check_action(name, arguments) is True

    def _refusal(self, action: Action) -> str | None:
        refusal_of = getattr(self.screen, "refusal_of", None)
        return None if refusal_of is None or action.name.startswith("app.") else refusal_of(action.name)

    def _title(self, action: Action) -> str:
        key = f"  ({key_text(action.keys.split(',')[0])})" if action.keys else ""
        return action.title + key

    def _runner(self, action: Action) -> Callable[[], Awaitable[None]]:
        screen = self.screen

        async def run() -> None:
            if not self._possible(action) and (refusal := self._refusal(action)) is not None:
                screen.notify(refusal, title=action.title, severity="warning", timeout=6, markup=False)
                return
            await screen.run_action(action.name)

        return run
