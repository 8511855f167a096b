"""How a training is asked to leave: SIGTERM (a spot machine's notice), Ctrl-C, or dvc that is gone.

The state can be kept between two optimizer steps only, so a request is noted, and answered there. Whoever cannot get
there in LEAVE_S goes without: the last state on disk stands.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType

import psutil

from stf.console.training import stopped_by
from stf.errors import Interrupted

LEAVE_S = 25.0  # a spot machine gives 30
_SAME_REQUEST_S = 2.0  # torchrun passes on a Ctrl-C that the terminal has sent to every process by itself
_SIGNALS = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


def _is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _is_adopted(parent: psutil.Process) -> bool:
    """Whether `parent` took this process over from one that died: it belongs to another session, which no child's does
    that leads none of its own (torchrun's do)."""
    session = os.getsid(0)
    try:
        return session not in {os.getpid(), os.getsid(parent.pid)}
    except ProcessLookupError:
        return True


def _watch() -> Callable[[], bool]:
    """A function that tells whether the dvc that runs this stage has gone; never, where none runs it.

    torchrun or a shell may stand between. Where nothing above is called dvc, a program that uses it as a library is
    taken to be the parent, or dvc has gone already.
    """
    above = psutil.Process().parents() if "DVC_STAGE" in os.environ else []
    if not above:
        return lambda: False
    for process in above:
        with contextlib.suppress(psutil.Error):
            if any(Path(word).name == "dvc" for word in process.cmdline()):
                return partial(_is_gone, process)
    return (lambda: True) if _is_adopted(above[0]) else partial(_is_gone, above[0])


# Looked up when this is imported, in the process's first second: dvc may be gone before torch is loaded, and who looks
# only then might take whoever adopted this process for the one that started it.
_STARTER_IS_GONE = _watch()


class Leaving:
    """Whether this process was asked to leave; see `listening`."""

    def __init__(self) -> None:
        self.unwanted_option = ""  # of the command, when the run is resumed
        self._request: Interrupted | None = None
        self._asked_s = 0.0
        self._patient = False

    def asked(self) -> Interrupted | None:
        """The error to leave with, where somebody asked for it."""
        if self._request is None and _STARTER_IS_GONE():
            # nobody would take over what an orphan makes, and the next dvc repro could not start beside it
            self._request = self._made("the end of dvc, which had started it", signal.SIGTERM)
        return self._request

    @contextlib.contextmanager
    def answered_between_steps(self) -> Iterator[None]:
        """Inside the block a request waits for `asked`; outside it, Interrupted is raised at once."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    def answer(self) -> None:
        """Raises the error to leave with, where somebody asked for it."""
        if (request := self.asked()) is not None:
            raise request

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        again = self._request is not None
        if again and time.monotonic() - self._asked_s < _SAME_REQUEST_S:
            return
        if not again:
            self._request, self._asked_s = (
                self._made(_SIGNALS[signal.Signals(signum)], signum),
                time.monotonic(),
            )
        if again or not self._patient:
            assert self._request is not None
            raise self._request

    def _made(self, by: str, signum: int) -> Interrupted:
        return Interrupted(stopped_by(by, self.unwanted_option), 128 + signum)


@contextlib.contextmanager
def listening() -> Iterator[Leaving]:
    """A Leaving that hears SIGTERM and SIGINT inside the block; LEAVE_S after the first the process ends anyway."""
    leaving = Leaving()
    before = {signum: signal.signal(signum, leaving._on_signal) for signum in _SIGNALS}
    # the interpreter may be deep in a kernel when a signal comes, but the byte is written at once
    heard, written = socket.socketpair()
    written.setblocking(False)
    wakeup = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_leave_in_time, args=(heard,), daemon=True).start()
    try:
        yield leaving
    finally:
        signal.set_wakeup_fd(wakeup)
        for signum, handler in before.items():
            signal.signal(signum, handler)
        written.shutdown(
            socket.SHUT_RDWR
        )  # ends the thread; closing would not, while loader workers have a copy
        written.close()


def _leave_in_time(heard: socket.socket) -> None:
    with heard:
        while signum := heard.recv(1):
            if signum[0] in _SIGNALS:
                time.sleep(LEAVE_S)
                print(
                    f"not done in {LEAVE_S:.0f} s: leaving with the last state kept",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(128 + signum[0])
