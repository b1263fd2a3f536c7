"""Work in processes: the same results in the same order however many there are, with progress."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any, TypeVar

from otel_aiops.errors import AiopsError, BadInput, Overloaded, StateError, StorageError

Task = TypeVar("Task")
Result = TypeVar("Result")
Told = Callable[[float], None]  # the share that is done

LOOK_S = 0.2  # between two looks at the progress
_SHARES = "shares"  # the attribute of a process that has the progress of all tasks


def processes() -> int:
    """How many this machine can run at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def work(
    run: Callable[[Task, Told], Result], tasks: Sequence[Task], *, count: int, told: Told | None = None
) -> list[Result]:
    """Run a function of a module over tasks in `count` processes, or here where one is enough; results in order.

    `run` gets a function that it tells which share of its task is done. A process ends when this one does. Raises:
    what `run` raises, once nothing runs any more, and Overloaded when a process was killed.
    """
    tell = told or (lambda share: None)
    if min(count, len(tasks)) <= 1:
        found = []
        for k, task in enumerate(tasks):
            found.append(run(task, lambda share, k=k: tell((k + share) / len(tasks))))  # type: ignore[misc]
        return found
    context = multiprocessing.get_context("spawn")  # a fork would copy threads' locks
    shares: Any = context.Array("d", len(tasks), lock=False)
    with ProcessPoolExecutor(min(count, len(tasks)), context, _begin, (shares,)) as pool:
        futures = [pool.submit(_run, run, task, k) for k, task in enumerate(tasks)]
        try:
            for _ in _looks(futures):
                tell(sum(shares) / len(tasks))
            return [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise Overloaded("a process of this work was killed, perhaps because memory was short") from error
        finally:
            for future in futures:
                future.cancel()


def _looks(futures: Sequence[Future[Any]]) -> Iterator[None]:
    """Once every moment, until all are done or one has failed."""
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, LOOK_S, FIRST_EXCEPTION)
        yield
        if any(future.exception() for future in done):
            return


def _begin(shares: Any) -> None:
    """Prepare a process: it has a place to tell its progress, and ends with its parent, however that ends."""
    setattr(multiprocessing.current_process(), _SHARES, shares)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _run(run: Callable[[Task, Told], Result], task: Task, place: int) -> Result:
    shares = getattr(multiprocessing.current_process(), _SHARES)
    try:
        found = run(task, lambda share: shares.__setitem__(place, share))
    except AiopsError as error:  # one of another kind may not survive the way to the parent
        kinds = (StorageError, Overloaded, StateError, BadInput)
        raise next((kind for kind in kinds if isinstance(error, kind)), AiopsError)(str(error)) from None
    shares[place] = 1.0
    return found
