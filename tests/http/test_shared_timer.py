"""One timer for many timeouts, on each of several loops."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from hayhooks.http.shared_timer import SharedTimer


def test_each_loop_gets_its_own_items():
    expired: list[tuple[str, int]] = []
    timer = SharedTimer[str](0.05, lambda item: expired.append((item, threading.get_ident())))

    async def wait(name: str) -> int:
        timer.add(f"{name} discarded")
        timer.add(f"{name} expires")
        timer.discard(f"{name} discarded")
        deadline = time.monotonic() + 20
        while not any(item == f"{name} expires" for item, _ in expired):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        return threading.get_ident()

    together = threading.Barrier(2)

    def run(name: str) -> int:
        together.wait()
        return asyncio.run(wait(name))

    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(run, ["one", "other"])
    assert sorted(expired) == sorted([("one expires", one), ("other expires", other)])


def test_a_loop_that_was_closed_is_forgotten():
    timer = SharedTimer[asyncio.Event](0.05, asyncio.Event.set)
    left, waited_for = asyncio.Event(), asyncio.Event()

    async def leave() -> None:
        timer.add(left)

    async def wait() -> None:
        timer.add(waited_for)
        await asyncio.wait_for(waited_for.wait(), 60)

    asyncio.run(leave())
    asyncio.run(wait())
    assert not left.is_set()
