"""Whose threads run what code hands to the event loop's executor and to anyio."""

import asyncio
import contextvars
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pytest
import uvloop
from anyio import to_thread

from hayhooks.kernel.executor import threads_by_deployment
from hayhooks.kernel.isolation import close_package, open_package, running_package
from hayhooks.kernel.state import Revision


def thread() -> str:
    return threading.current_thread().name


@pytest.fixture
def package(tmp_path: Path) -> Iterator[str]:
    package = open_package(Revision("it", tmp_path, "0" * 32), helpers=2)
    yield package
    close_package(package)


def test_other_code_keeps_the_executor_and_the_tokens_of_the_application(package: str):
    async def main() -> None:
        loop, limiter = asyncio.get_running_loop(), to_thread.current_default_thread_limiter()
        limiter.total_tokens = 7
        with ThreadPoolExecutor(1, thread_name_prefix="theirs") as theirs:
            loop.set_default_executor(theirs)
            with threads_by_deployment():
                assert (await asyncio.to_thread(thread)).startswith("theirs")
                assert to_thread.current_default_thread_limiter().total_tokens == 7
                with running_package(package):
                    assert await asyncio.to_thread(thread) == "hayhooks it helper"
                    assert await loop.run_in_executor(None, thread) == "hayhooks it helper"
                    assert to_thread.current_default_thread_limiter().total_tokens == 2
            assert (await asyncio.to_thread(thread)).startswith("theirs")
            assert to_thread.current_default_thread_limiter() is limiter

    asyncio.run(main())


def test_results_errors_and_cancellations_arrive(package: str):
    async def main() -> None:
        with threads_by_deployment(), running_package(package):
            assert await asyncio.to_thread(int, "3") == 3
            with pytest.raises(ValueError, match="invalid literal"):
                await asyncio.to_thread(int, "x")
            gate, ran = threading.Event(), threading.Event()
            held = [asyncio.create_task(asyncio.to_thread(gate.wait, 10)) for _ in range(2)]
            waiting = asyncio.create_task(asyncio.to_thread(ran.set))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            gate.set()
            await asyncio.gather(*held)
            await asyncio.to_thread(int)
            assert not ran.is_set()  # it was cancelled while it waited for a thread

    asyncio.run(main())


def test_a_token_goes_back_to_whom_it_was_lent_by(package: str):
    """The context of a task may be another deployment's when it gives its token back, or its own may be gone."""

    async def main() -> None:
        with threads_by_deployment():
            limiter = to_thread.current_default_thread_limiter()
            with running_package(package):
                await limiter.acquire()
                with pytest.raises(RuntimeError):
                    await limiter.acquire()
                limiter.acquire_on_behalf_of_nowait("somebody")
                with pytest.raises(anyio.WouldBlock):
                    limiter.acquire_on_behalf_of_nowait("one too many")
                assert (limiter.borrowed_tokens, limiter.available_tokens) == (2, 0)
                assert limiter.statistics().borrowed_tokens == 2
            assert limiter.borrowed_tokens == 0
            limiter.release()
            limiter.release_on_behalf_of("somebody")
            with pytest.raises(RuntimeError):
                limiter.release()
            with running_package(package):
                assert limiter.borrowed_tokens == 0
                limiter.total_tokens = 3  # a wrapper may set its own
            assert limiter.total_tokens == 40

    asyncio.run(main())


def test_the_code_of_a_retired_revision_shares_threads_with_others_of_its_kind(package: str):
    async def main() -> None:
        context = contextvars.copy_context()
        with threads_by_deployment(), running_package(package):
            context = contextvars.copy_context()
            close_package(package)
            assert await asyncio.to_thread(thread) == "hayhooks retired helper"
            assert await asyncio.create_task(to_thread.run_sync(int), context=context) == 0

    asyncio.run(main())


def test_uvloop_looks_host_names_up_in_threads_of_the_deployment(package: str):
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with threads_by_deployment():
            with running_package(package):
                assert await loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
            assert any(thread.name == "hayhooks it helper" for thread in threading.enumerate())
        assert "getaddrinfo" not in vars(loop)
        assert await loop.getaddrinfo("localhost", 80)

    uvloop.run(main())
