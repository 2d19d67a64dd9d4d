import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from hayhooks.kernel.threads import DaemonThreadPool
from tests.live_server import eventually


def test_every_job_runs_whoever_submits_it_however_often_threads_end():
    pool, done, lock = DaemonThreadPool("test", 3, idle_s=0.001), set(), threading.Lock()

    def job(number: int) -> None:
        with lock:
            done.add(number)

    def submit(start: int) -> None:
        for number in range(start, start + 500):
            pool.submit(partial(job, number))
            if number % 50 == 0:
                time.sleep(0.002)  # threads end meanwhile

    with ThreadPoolExecutor(4) as submitters:
        list(submitters.map(submit, range(0, 2000, 500)))

    eventually(lambda: len(done) == 2000)


def test_no_more_jobs_run_together_than_the_limit():
    pool, gate = DaemonThreadPool("limited", 2), threading.Event()
    running: list[int] = []

    def hold(number: int) -> None:
        running.append(number)
        gate.wait(60)

    for number in range(5):
        pool.submit(partial(hold, number))
    eventually(lambda: len(running) == 2)
    pool.tick()
    # A thread that was one too many would be there, even if it had not yet begun a job.
    assert sum(thread.name == "hayhooks limited" for thread in threading.enumerate()) == 2
    assert set(running) == {0, 1}  # two threads, so in either order

    gate.set()
    eventually(lambda: set(running) == {0, 1, 2, 3, 4})


def test_jobs_that_outlast_the_patience_make_room():
    pool, gate, ran = DaemonThreadPool("test", 1, stuck_after_s=0.0), threading.Event(), threading.Event()

    def relieved() -> bool:
        pool.tick()
        return ran.is_set()

    pool.submit(partial(_wait, gate))
    pool.submit(ran.set)
    eventually(relieved)
    gate.set()


def test_threads_end_when_idle_and_when_closed():
    def alive(name: str) -> int:
        return sum(thread.name == f"hayhooks {name}" for thread in threading.enumerate())

    idle, closed = DaemonThreadPool("idles", 2, idle_s=0.01), DaemonThreadPool("closes", 2)
    for pool in (idle, closed):
        pool.submit(lambda: None)
    eventually(lambda: alive("idles") == 0)
    closed.close()
    eventually(lambda: alive("closes") == 0)

    ran = threading.Event()
    closed.submit(ran.set)
    assert ran.wait(60)


def test_a_job_that_comes_as_the_last_thread_is_told_to_end_is_run():
    for _ in range(200):
        pool, first, second = DaemonThreadPool("test", 1), threading.Event(), threading.Event()
        pool.submit(first.set)
        assert first.wait(60)
        pool.close()
        pool.submit(second.set)
        assert second.wait(60)


def test_a_crew_does_not_keep_what_a_job_held():

    class Held:
        def __call__(self) -> None:
            pass

    pool, held = DaemonThreadPool("test", 1), Held()
    kept = weakref.ref(held)
    pool.submit(held)
    del held
    eventually(lambda: (gc.collect(), kept() is None)[-1])


def _wait(gate: threading.Event) -> None:
    gate.wait(60)
