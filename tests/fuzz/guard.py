"""Watches what a reader does beside reading: files it opens for writing, programs it starts, hosts it calls.

An audit hook hears Python's own calls. What C code writes is seen by a look at the folders around the input.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# audit event → which of its arguments are paths that change
_CHANGES = {
    "os.mkdir": (0,), "os.rename": (0, 1), "os.remove": (0,), "os.rmdir": (0,), "os.link": (1,), "os.symlink": (1,),
    "os.truncate": (0,), "os.chmod": (0,), "os.chown": (0,), "shutil.rmtree": (0,), "shutil.move": (0, 1),
    "shutil.copyfile": (1,), "shutil.copytree": (1,),
}  # fmt: skip
_RUNS = {
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "os.spawn", "subprocess.Popen", "pty.spawn",
    "pickle.find_class", "socket.connect", "socket.getaddrinfo", "urllib.Request", "webbrowser.open",
}  # fmt: skip
# What our commands start by themselves: provenance, and matplotlib's and MLflow's looks at the machine.
_OUR_PROGRAMS = {"git", "fc-list", "uname"}
_NOWHERE = {"/dev/null", "/dev/tty"}


@dataclass
class Seen:
    """What was heard while the guard was on."""

    writes: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)


class Guard:
    """`with guard as seen:` around a reader; the input lies in `room`, files may be written below `outputs` alone."""

    def __init__(self, room: Path, outputs: Path, canary: Path) -> None:
        self._room, self._outputs, self._canary = (
            room,
            os.path.realpath(outputs),
            Path(os.path.realpath(canary)),
        )
        self._seen: Seen | None = None
        self._before: set[str] = set()
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[object, ...]) -> None:
        if self._seen is None:
            return
        seen = self._seen
        if event in _RUNS:
            ours = event == "subprocess.Popen" and os.path.basename(str(arguments[0])) in _OUR_PROGRAMS
            seen.runs += [] if ours else [f"{event}{str(arguments)[:100]}"]
        elif event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITES:
                self._changed(seen, event, path)
        elif event in _CHANGES:
            for index in _CHANGES[event]:
                self._changed(seen, event, arguments[index])

    def _changed(self, seen: Seen, event: str, path: object) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return  # a descriptor, whose opening was heard
        name = os.path.realpath(os.fsdecode(path))
        if name == str(self._canary):
            return  # code that was run, which the look at the room finds
        if name not in _NOWHERE and not f"{name}{os.sep}".startswith(self._outputs + os.sep):
            seen.writes.append(f"{event} {name[:150]}")

    def __enter__(self) -> Seen:
        self._before = self._names()
        seen = self._seen = Seen()
        return seen

    def __exit__(self, *_: object) -> None:
        seen, self._seen = self._seen, None
        assert seen is not None
        for name in sorted(self._names() ^ self._before):
            if name == self._canary.name:
                seen.runs.append("the canary was made")
            else:
                seen.writes.append(f"beside the input: {name}")
        if self._canary.is_dir():
            self._canary.rmdir()
        self._canary.unlink(missing_ok=True)

    def _names(self) -> set[str]:
        """Everything in the folders around the input, two levels up."""
        return {str(path.relative_to(self._room)) for path in self._room.rglob("*")}
