"""Recent output items of responses, by id: some clients refer to an item instead of sending it again.

The AI SDK does so for every answer and tool call, unless it is told ``store: false``. Hayhooks stores no responses; it
keeps their items in memory, each worker its own, until newer ones need the space.
"""

from collections.abc import Iterable
from typing import Any

from pydantic_core import from_json

from hayhooks.http.json import encode_part


class RecentItems:
    """Items as JSON, the oldest first; at most *max_bytes* of them."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._items: dict[str, bytes] = {}

    def keep(self, items: Iterable[dict[str, Any]]) -> None:
        """Keep *items* for ``resolve``."""
        for item in items:
            self._items[item["id"]] = data = encode_part(item)
            self._bytes += len(data)
        while self._bytes > self._max_bytes:
            oldest = next(iter(self._items))
            self._bytes -= len(self._items.pop(oldest))

    def resolve(self, items: list[Any]) -> list[Any]:
        """Return the input *items* with items in the place of references to them; unknown references stay."""
        resolved = []
        for item in items:
            match item:
                case {"type": "item_reference", "id": str() as id_} if id_ in self._items:
                    resolved.append(from_json(self._items[id_]))
                case _:
                    resolved.append(item)
        return resolved
