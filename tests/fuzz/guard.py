"""Detects side effects of a reader: files it opens for writing, programs it starts, hosts it connects to.

An audit hook sees Python's own calls. Files written by C code are detected by listing the folders around the input.
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
# Programs that our commands start themselves: for provenance, and by matplotlib and MLflow.
_OUR_PROGRAMS = {"git", "fc-list", "uname"}
_NOWHERE = {"/dev/null", "/dev/tty"}


@dataclass
class SideEffects:
    """The side effects detected while the guard was active."""

    writes: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)


class Guard:
    """`with guard as effects:` around a reader; the input is in `room`, and only `outputs` may be written to."""

    def __init__(self, room: Path, outputs: Path, canary: Path) -> None:
        self._room, self._outputs, self._canary = (
            room,
            os.path.realpath(outputs),
            Path(os.path.realpath(canary)),
        )
        self._effects: SideEffects | None = None
        self._names_before: set[str] = set()
        sys.addaudithook(self._on_event)

    def _on_event(self, event: str, arguments: tuple[object, ...]) -> None:
        if self._effects is None:
            return
        effects = self._effects
        if event in _RUNS:
            is_ours = event == "subprocess.Popen" and os.path.basename(str(arguments[0])) in _OUR_PROGRAMS
            effects.runs += [] if is_ours else [f"{event}{str(arguments)[:100]}"]
        elif event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITES:
                self._record_write(effects, event, path)
        elif event in _CHANGES:
            for index in _CHANGES[event]:
                self._record_write(effects, event, arguments[index])

    def _record_write(self, effects: SideEffects, event: str, path: object) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return  # a file descriptor, whose opening was recorded
        name = os.path.realpath(os.fsdecode(path))
        if name == str(self._canary):
            return  # code was executed; __exit__ reports it
        if name not in _NOWHERE and not f"{name}{os.sep}".startswith(self._outputs + os.sep):
            effects.writes.append(f"{event} {name[:150]}")

    def __enter__(self) -> SideEffects:
        self._names_before = self._names()
        effects = self._effects = SideEffects()
        return effects

    def __exit__(self, *_: object) -> None:
        effects, self._effects = self._effects, None
        assert effects is not None
        for name in sorted(self._names() ^ self._names_before):
            if name == self._canary.name:
                effects.runs.append("the canary was created")
            else:
                effects.writes.append(f"beside the input: {name}")
        if self._canary.is_dir():
            self._canary.rmdir()
        self._canary.unlink(missing_ok=True)

    def _names(self) -> set[str]:
        """Lists everything in the folders around the input, up to two levels above it."""
        return {str(path.relative_to(self._room)) for path in self._room.rglob("*")}
