"""Executions through the service: what is ordered is run, goes on, ends, and is told."""

import asyncio
import base64

import pytest

from hayhooks.errors import ConflictError, RefusedError
from hayhooks.executions.execution import Query
from tests.executions.conftest import Bench


def test_what_is_ordered_is_run(bench: Bench):
    async def work():
        return await bench.ended(do="answer", value={"ü": [1, None]})

    done = bench.run(work())

    assert (done.status, done.result, done.attempt) == ("completed", {"ü": [1, None]}, 1)
    assert [(each.number, each.outcome, each.revision) for each in done.attempts] == [(1, "completed", "a-revision")]


def test_a_failure_is_kept_and_can_be_tried_again(bench: Bench):
    async def work():
        failed = await bench.ended(do="fail_once")
        again = await bench.service.retry(failed)
        return failed, await bench.service.wait(again, 60, until_end=True)

    failed, done = bench.run(work())

    assert (failed.status, failed.error.type, failed.error.message) == ("failed", "ValueError", "no")
    assert (done.status, done.result, done.attempt, done.error) == ("completed", {"attempt": 1}, 2, None)


def test_who_asks_for_a_retry_too_often_fails(bench: Bench):
    async def work():
        return await bench.ended(do="again")

    failed = bench.run(work())

    assert (failed.status, failed.error.code) == ("failed", "application_retries_exhausted")
    assert [each.outcome for each in failed.attempts] == ["retry", "retry", "failed"]


def test_one_of_two_resumes_wins(bench: Bench):
    async def work():
        execution, _ = await bench.service.submit(bench.order(do="ask", wait={}))
        waiting = await bench.reached(execution, "waiting")
        both = await asyncio.gather(
            bench.service.resume(waiting, 1), bench.service.resume(waiting, 2), return_exceptions=True
        )
        return waiting, both, await bench.service.wait(execution, 60, until_end=True)

    waiting, both, done = bench.run(work())

    assert waiting.wait["message"] == "May I?"
    assert [type(each) for each in both].count(ConflictError) == 1
    assert (done.status, done.result) == ("completed", 1 if isinstance(both[1], ConflictError) else 2)


def test_a_wait_has_a_timeout(bench: Bench):
    async def work():
        return await bench.ended(do="ask", wait={"timeout": 0.1})

    done = bench.run(work())

    assert (done.status, done.result) == ("completed", {"timed_out": True})


@pytest.mark.parametrize("state", ["queued", "waiting", "running"])
def test_what_has_not_ended_can_be_canceled_and_tried_again(bench: Bench, state: str):
    orders = {
        "queued": bench.order(do="answer", value=1, delay_s=600),
        "waiting": bench.order(do="ask", wait={}),
        "running": bench.order(do="sleep"),
    }

    async def work():
        execution, _ = await bench.service.submit(orders[state])
        execution = await bench.reached(execution, state)
        first = await bench.service.cancel(execution, "enough")
        canceled = await bench.service.wait(first, 60, until_end=True)
        await bench.service.retry(canceled)
        again = await bench.reached(
            execution if state != "queued" else canceled, "completed" if state == "queued" else state
        )
        await bench.service.cancel(again)
        return first, canceled

    first, canceled = bench.run(work())

    assert first.status == ("running" if state == "running" else "canceled")
    assert canceled.status == "canceled"
    assert canceled.cancellation_requested_at is not None


def test_equal_keys_are_one_execution(bench: Bench):
    async def work():
        order = bench.order(do="answer", value=1, key="k1")
        both = await asyncio.gather(*(bench.service.submit(order) for _ in range(8)))
        with pytest.raises(ConflictError, match="bound to different work"):
            await bench.service.submit(bench.order(do="answer", value=2, key="k1"))
        other, is_replay = await bench.service.submit(bench.order(do="answer", value=2, key="k1", owner="ann"))
        return both, other, is_replay

    both, other, is_replay = bench.run(work())

    assert len({execution.id for execution, _ in both}) == 1
    assert [replayed for _, replayed in both].count(False) == 1
    assert other.id != both[0][0].id
    assert not is_replay


def test_an_owner_sees_what_is_theirs(bench: Bench):
    async def work():
        execution, _ = await bench.service.submit(bench.order(do="answer", value=1, owner="ann"))
        seen = [await bench.service.get("it", execution.id, owner) for owner in ("ann", "bob", None)]
        page = await bench.service.page(Query(owner="bob"))
        return seen, await bench.service.get("other", execution.id, None), page

    (hers, his, anybodys), elsewhere, page = bench.run(work())

    assert hers is not None
    assert anybodys is not None
    assert (his, elsewhere, list(page.executions)) == (None, None, [])


@pytest.mark.parametrize("newest_first", [False, True])
def test_pages_have_each_execution_once(bench: Bench, newest_first: bool):
    async def work():
        for number in range(7):
            await bench.service.submit(bench.order("other", do="answer", value=number))
        found, cursor = [], ""
        while True:
            query = Query(deployment="other", limit=3, cursor=cursor, newest_first=newest_first)
            page = await bench.service.page(query)
            found += [each.id for each in page.executions]
            if not (cursor := page.cursor):
                return found

    found = bench.run(work())

    assert len(found) == len(set(found)) >= 7


def test_a_watcher_goes_on_where_it_was(bench: Bench):
    async def work():
        execution, _ = await bench.service.submit(bench.order(do="speak", chunks=20))
        events = [event async for event in bench.service.watch(execution)]
        chunks = [event for event in events if event.kind == "chunk"]
        rests = [[each.cursor async for each in bench.service.watch(execution, chunk.cursor)] for chunk in chunks]
        gap = [event.kind async for event in bench.service.watch(execution, "999-0")]
        return events, chunks, rests, gap

    events, chunks, rests, gap = bench.run(work())

    assert [chunk.data["payload"]["n"] for chunk in chunks] == list(range(20))
    assert (events[-1].kind, events[-1].data.status) == ("end", "completed")
    cursors = [chunk.cursor for chunk in chunks]
    assert rests == [[*cursors[number + 1 :], ""] for number in range(20)]
    assert gap[0] == "gap"
    assert gap.count("chunk") == 20


def test_chunks_are_in_their_order_however_soon_the_end_comes(bench: Bench):
    async def spoken(number: int) -> list[int]:
        execution = await bench.ended(do="speak", chunks=4, every=number * 0.0002)
        events = [event async for event in bench.service.watch(execution)]
        return [event.data["payload"]["n"] for event in events if event.kind == "chunk"]

    async def work():
        return [await asyncio.gather(*map(spoken, range(8))) for _ in range(4)]

    assert bench.run(work()) == [[[0, 1, 2, 3]] * 8] * 4


@pytest.mark.parametrize("cursor", ["x", "1", "-1-2", "1-2-3", "1-" + "9" * 30])
def test_a_wrong_cursor_is_refused(bench: Bench, cursor: str):
    async def work():
        execution = await bench.ended(do="answer", value=1)
        with pytest.raises(RefusedError, match="cursor"):
            bench.service.watch(execution, cursor)

    bench.run(work())


def test_what_is_too_large_is_not_stored(bench: Bench):
    async def work():
        with pytest.raises(RefusedError, match="HAYHOOKS_DURABLE_MAX_PAYLOAD"):
            await bench.service.submit(bench.order(do="answer", value="x" * 100_000))
        with pytest.raises(RefusedError, match="JSON"):
            await bench.service.submit(bench.order(do="answer", value=float("nan")))
        return await bench.ended(do="keep", size=99_000), await bench.ended(do="keep", size=100_001)

    kept, too_large = bench.run(work())

    assert (kept.status, kept.steps) == ("completed", ["big"])
    assert (too_large.status, too_large.error.type) == ("failed", "TooLargeError")


def test_what_is_not_deployed_waits_and_takes_no_turn_of_others(bench: Bench):
    bench.host.missing.add("other")

    async def work():
        held = [(await bench.service.submit(bench.order("other", do="answer", value=1)))[0] for _ in range(6)]
        done = await bench.ended(do="answer", value=2)
        parked = await bench.service.get("other", held[0].id, None)
        bench.host.deploy("other")
        return done, parked, [await bench.service.wait(each, 60, until_end=True) for each in held]

    done, parked, later = bench.run(work())

    assert done.result == 2
    assert (parked.status, parked.waiting_for, parked.attempt) == ("queued", "deployment", 0)
    assert {each.status for each in later} == {"completed"}


def test_only_what_has_ended_can_be_deleted(bench: Bench):
    async def work():
        execution, _ = await bench.service.submit(bench.order(do="ask", wait={}))
        waiting = await bench.reached(execution, "waiting")
        with pytest.raises(ConflictError, match="cancel it first"):
            await bench.service.delete(waiting)
        canceled = await bench.service.cancel(waiting)
        await bench.service.delete(canceled)
        return await bench.service.get("it", execution.id, None)

    assert bench.run(work()) is None


def test_many_at_once_are_each_run_once(bench: Bench):
    async def work():
        orders = [bench.order(do="answer", value=number) for number in range(120)]
        ordered = [execution for execution, _ in await asyncio.gather(*map(bench.service.submit, orders))]
        return [await bench.service.wait(each, 60, until_end=True) for each in ordered]

    done = bench.run(work())

    assert [(each.status, each.result, each.attempt) for each in done] == [("completed", n, 1) for n in range(120)]


@pytest.mark.parametrize("ends", ["resume", "cancel"])
def test_what_has_ended_since_it_was_read_is_not_resumed(bench: Bench, ends: str):
    async def work():
        execution, _ = await bench.service.submit(bench.order(do="ask", wait={}))
        waiting = await bench.reached(execution, "waiting")
        await (bench.service.resume(waiting, 1) if ends == "resume" else bench.service.cancel(waiting))
        ended = await bench.service.wait(waiting, 60, until_end=True)
        with pytest.raises(ConflictError):
            await bench.service.resume(waiting, 2)
        return ended, await bench.service.get("it", waiting.id, None)

    ended, after = bench.run(work())

    assert after == ended


def test_who_writes_into_an_attempt_that_has_ended_fails_alone(bench: Bench):
    bench.host.journals.clear()
    assert bench.run(bench.ended(do="leave_journal")).status == "completed"

    execution = bench.run(bench.ended(do="keep_in_left_journal"))

    assert (execution.status, execution.attempt) == ("failed", 1)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-1e300", "1e300"])
@pytest.mark.parametrize("newest_first", [False, True])
def test_cursors_of_no_time_are_refused(bench: Bench, number: str, newest_first: bool):
    cursor = base64.urlsafe_b64encode(f'[{number}, 1, "it~a"]'.encode()).decode()

    async def page():
        bench.service.start()  # without a database there are no pages, and no cursor is read
        await bench.service.page(Query("it", cursor=cursor, newest_first=newest_first))

    with pytest.raises(RefusedError, match="next_cursor"):
        bench.run(page())
