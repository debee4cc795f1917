"""SIGTERM and SIGINT: what they end is no result, and nothing is recorded of it."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(BaseException):
    """The user or the system has asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """What a shell shows of a process that the signal has ended."""
        return 128 + self.number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"


@contextmanager
def stoppable() -> Iterator[None]:
    """Let the signals raise `Stopped`, so that files are closed and workers ended."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    with _handling(dict.fromkeys(SIGNALS, stop)):
        yield


@dataclass
class Told:
    """The signal that has arrived, if any."""

    number: int | None = None


@contextmanager
def listening() -> Iterator[Told]:
    """Know whether a signal has arrived, besides what it does anyway.

    Libraries catch what a signal raises and raise another thing, as code under test does that ends
    of itself. A process that a signal would have ended at once, such as a worker, still is.
    """
    told = Told()

    def hear(number: int, frame: FrameType | None) -> None:
        told.number = number
        before = former[number]
        if callable(before):
            before(number, frame)
        elif before == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    former: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    with _handling(dict.fromkeys(SIGNALS, hear)):
        yield told


@contextmanager
def _handling(handlers: dict[signal.Signals, Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # it cannot handle any
        yield
        return
    former = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
