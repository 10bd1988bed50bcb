"""One thread and its queue: jobs go in on any thread, run in order, and come out where they belong.

Jobs that wait together are handed over together, so that they can share one commit.
"""

import asyncio
import concurrent.futures
import queue
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, TypeVar

from eph_e2ee.errors import VaultClosed
from eph_e2ee.hardening import wipe_stack

__all__ = ["Job", "Worker"]

T = TypeVar("T")

MAXIMUM_GROUP: Final = 500
"""Jobs handed over at once: enough to make the commit's share of each negligible, and few enough
that the first of them does not wait long for the last."""

IDLE_SECONDS: Final = 1.0
"""How often an idle worker looks whether the interpreter is going down. The thread is no daemon,
since one that is killed in the middle of a commit helps nobody; so it must end by itself when a
program ends without closing its vault."""


class Job(Generic[T]):
    """Something to do on the worker, and the future that hears of it.

    Attributes:
        alone: whether it runs outside of the transaction that other jobs share.
    """

    def __init__(self, work: Callable[..., T], *, alone: bool) -> None:
        self.work = work
        self.alone = alone
        self._outcome: Callable[[], T] = _unanswered
        self._threaded: concurrent.futures.Future[T] | None = None
        self._future: asyncio.Future[T] | None = None

    def on_loop(self) -> asyncio.Future[T]:
        """Return a future of the running event loop for the outcome."""
        self._future = asyncio.get_running_loop().create_future()
        return self._future

    def on_thread(self) -> concurrent.futures.Future[T]:
        """Return a future that a thread can block on for the outcome."""
        self._threaded = concurrent.futures.Future()
        return self._threaded

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that waits for the outcome, if one does."""
        return None if self._future is None else self._future.get_loop()

    def succeed(self, value: T) -> None:
        """Keep the result, to be delivered later."""
        self._outcome = lambda: value

    def fail(self, error: BaseException) -> None:
        """Keep the error, to be delivered later, in place of any result."""

        def outcome() -> T:
            raise error

        self._outcome = outcome

    def deliver(self) -> None:
        """Settle the future, on its own thread. One that was cancelled hears nothing."""
        future = self._future or self._threaded
        if future is None or future.done():
            return
        try:
            value = self._outcome()
        except BaseException as error:  # noqa: BLE001  whoever waits shall hear of each
            future.set_exception(error)
        else:
            future.set_result(value)


def _unanswered() -> Any:
    raise VaultClosed("the vault was closed before this was done")


class Worker:
    """The thread. It keeps nothing alive: it knows `serve`, a bound method, only weakly.

    Args:
        serve: called on the thread with each group: either jobs that share a transaction, or one
            that runs alone. It must not raise.
        release: called on the thread when it ends, for whatever reason.
    """

    def __init__(
        self, serve: Callable[[list[Job[Any]]], None], release: Callable[[], object]
    ) -> None:
        self._serve = weakref.WeakMethod(serve)
        self._release = release
        self._queue: queue.SimpleQueue[Job[Any] | None] = queue.SimpleQueue()
        self._held: Job[Any] | None = None
        self._lock = threading.Lock()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="eph_e2ee vault")
        self._thread.start()

    def put(self, job: Job[Any]) -> None:
        """Queue a job: the order of these calls is the order in which jobs run.

        Raises:
            VaultClosed: `finish` has been called.
        """
        with self._lock:
            if self._closing:
                raise VaultClosed("the vault is closed: open it again")
            self._queue.put(job)

    def finish(self, last: Job[Any]) -> bool:
        """Queue the last job, after which the thread ends; False when that was done before."""
        with self._lock:
            if self._closing:
                return False
            self._closing = True
            self._queue.put(last)
            self._queue.put(None)
            return True

    def join(self) -> None:
        """Block until the thread has ended."""
        self._thread.join()

    def _run(self) -> None:
        while (group := self._next_group()) is not None:
            if (serve := self._serve()) is not None:
                serve(group)
            if group[0].alone:
                # It may have destroyed keys, and they may have passed this stack.
                wipe_stack()
            deliver(group)
            del group, serve
        self._release()

    def _next_group(self) -> list[Job[Any]] | None:
        """Return the next job, with all that may share its transaction and already wait."""
        first = self._held or self._wait()
        self._held = None
        if first is None:
            return None
        group = [first]
        while not first.alone and len(group) < MAXIMUM_GROUP and not self._queue.empty():
            job = self._queue.get_nowait()
            # None, the end, is never seen here: the last job before it runs alone.
            if job is None or job.alone:
                self._held = job
                break
            group.append(job)
        return group

    def _wait(self) -> Job[Any] | None:
        main = threading.main_thread()
        while True:
            try:
                return self._queue.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                if not main.is_alive():
                    return None


def deliver(group: Iterable[Job[Any]]) -> None:
    """Settle the futures of a group, with one call to each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop | None, list[Job[Any]]] = {}
    for job in group:
        by_loop.setdefault(job.loop, []).append(job)
    for loop, jobs in by_loop.items():
        if loop is None:
            _deliver(jobs)
        elif not loop.is_closed():
            try:
                loop.call_soon_threadsafe(_deliver, jobs)
            except RuntimeError:
                # The loop was closed in between: nobody waits any more.
                continue


def _deliver(jobs: list[Job[Any]]) -> None:
    for job in jobs:
        job.deliver()
    if any(job.alone for job in jobs):
        # The event loop's stack: what OMEMO and the flows have left there goes with the keys.
        wipe_stack()
