"""Preemption: SIGTERM (a spot machine's notice), Ctrl-C, or the end of the dvc that started the training.

The state can only be saved between two optimizer steps, so a request is noted and handled there. A process that does
not get there within EXIT_LIMIT_S exits anyway; the last state on disk then counts.
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

EXIT_LIMIT_S = 25.0  # a spot machine gives 30
_SAME_REQUEST_S = 2.0  # torchrun forwards a Ctrl-C that the terminal has already sent to every process
_SIGNALS = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


def _has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _is_adopted(parent: psutil.Process) -> bool:
    """Whether `parent` adopted this process when its own parent died: their sessions differ.

    A child has its parent's session unless it leads one itself, as torchrun's processes do.
    """
    session = os.getsid(0)
    try:
        return session not in {os.getpid(), os.getsid(parent.pid)}
    except ProcessLookupError:
        return True


def _dvc_check() -> Callable[[], bool]:
    """A function that returns whether the dvc that runs this stage has ended; always False when none runs it.

    torchrun or a shell may stand between. When no ancestor is called dvc, either a program that uses dvc as a library
    is the parent, or dvc has ended already.
    """
    ancestors = psutil.Process().parents() if "DVC_STAGE" in os.environ else []
    if not ancestors:
        return lambda: False
    for process in ancestors:
        with contextlib.suppress(psutil.Error):
            if any(Path(word).name == "dvc" for word in process.cmdline()):
                return partial(_has_ended, process)
    return (lambda: True) if _is_adopted(ancestors[0]) else partial(_has_ended, ancestors[0])


# Looked up at import, in the process's first second: dvc may end before torch is loaded, and a later look might take
# the process that adopted this one for its parent.
_dvc_has_ended = _dvc_check()


class Preemption:
    """The request to stop, if there is one; see `watch_for_preemption`."""

    def __init__(self) -> None:
        self.option_to_omit = ""  # from the command, when the run is resumed
        self._request: Interrupted | None = None
        self._requested_s = 0.0
        self._is_deferred = False

    def request(self) -> Interrupted | None:
        """The error to stop with, None while there is no request."""
        if self._request is None and _dvc_has_ended():
            # nothing would use the outputs of an orphan, and the next dvc repro could not start beside it
            self._request = self._interrupted("the end of dvc, which had started it", signal.SIGTERM)
        return self._request

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside the block a signal only sets `request`; outside it, the signal raises Interrupted at once."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False

    def check(self) -> None:
        """Raises the error to stop with, if there is a request."""
        if (request := self.request()) is not None:
            raise request

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        is_repeated = self._request is not None
        if is_repeated and time.monotonic() - self._requested_s < _SAME_REQUEST_S:
            return
        if self._request is None:
            self._request = self._interrupted(_SIGNALS[signal.Signals(signum)], signum)
            self._requested_s = time.monotonic()
        if is_repeated or not self._is_deferred:
            raise self._request

    def _interrupted(self, reason: str, signum: int) -> Interrupted:
        return Interrupted(stopped_by(reason, self.option_to_omit), 128 + signum)


@contextlib.contextmanager
def watch_for_preemption() -> Iterator[Preemption]:
    """Handles SIGTERM and SIGINT inside the block; EXIT_LIMIT_S after the first one the process exits anyway."""
    preemption = Preemption()
    handlers_before = {signum: signal.signal(signum, preemption._on_signal) for signum in _SIGNALS}
    # the interpreter may be deep in a kernel when a signal arrives, but its number is written here at once
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    wakeup_before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_exit_in_time, args=(receiver,), daemon=True).start()
    try:
        yield preemption
    finally:
        signal.set_wakeup_fd(wakeup_before)
        for signum, handler in handlers_before.items():
            signal.signal(signum, handler)
        sender.shutdown(socket.SHUT_RDWR)  # ends the thread; close() would not, as loader workers have a copy
        sender.close()


def _exit_in_time(receiver: socket.socket) -> None:
    with receiver:
        while signum := receiver.recv(1):
            if signum[0] in _SIGNALS:
                time.sleep(EXIT_LIMIT_S)
                print(
                    f"no end of the step within {EXIT_LIMIT_S:.0f} s: exiting; the last saved state stays",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(128 + signum[0])
