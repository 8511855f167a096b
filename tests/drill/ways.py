"""The ways to start a training and the ways to kill it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.drill.scratch import BRANCH, MARK, SEED, Place

STAGE = "train_phase_a"
_EXPERIMENT = ("dvc", "exp", "run", "-S", f"seed={SEED}", STAGE)
# The last command is the one that is waited for. What a user types after a kill is the same again.
LAUNCHERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "python": (("python", "-m", f"pipeline.{STAGE}"),),
    "repro": (("dvc", "repro", STAGE),),
    "exp": (_EXPERIMENT,),
    "temp": ((*_EXPERIMENT[:3], "--temp", *_EXPERIMENT[3:]),),
    "queue": ((*_EXPERIMENT[:3], "--queue", *_EXPERIMENT[3:]), ("dvc", "queue", "start")),
}
EXPERIMENTS = ("exp", "temp", "queue")
VICTIMS = ("trainer", "dvc", "both", "ctrl-c", "sigterm")


@dataclass(frozen=True)
class Way:
    """How a training is started and how it is killed."""

    launcher: str
    victim: str

    @property
    def name(self) -> str:
        """'repro:dvc'."""
        return f"{self.launcher}:{self.victim}"


# Without dvc nobody but the trainer can be killed; a queue runs in the background, where no Ctrl-C reaches it.
WAYS = tuple(
    Way(launcher, victim)
    for launcher in LAUNCHERS
    for victim in VICTIMS
    if (launcher, victim) not in {("python", "dvc"), ("python", "trainer"), ("queue", "ctrl-c")}
)


def start(place: Place, launcher: str, log: Path) -> subprocess.Popen[bytes]:
    """Starts a training as from a terminal: a process group of its own, its output at the end of `log`."""
    *before, last = LAUNCHERS[launcher]
    with log.open("ab") as output:
        for command in before:
            subprocess.run(
                command, cwd=place.path, env=place.env(), stdout=output, stderr=output, check=False
            )
        return subprocess.Popen(
            last, cwd=place.path, env=place.env(), stdout=output, stderr=output, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip


def processes(place: Place) -> list[psutil.Process]:
    """All that was started in `place` and still runs, whoever its parent is now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == str(place.path) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def trainers(running: list[psutil.Process]) -> list[psutil.Process]:
    """The trainer without its loader workers, which are forks of it."""
    named = []
    for process in running:
        with contextlib.suppress(psutil.Error):
            if f"pipeline.{STAGE}" in process.cmdline() and "python" in process.name():
                named.append(process)
    pids = {process.pid for process in named}
    return [process for process in named if _parent(process) not in pids]


def _parent(process: psutil.Process) -> int | None:
    with contextlib.suppress(psutil.Error):
        return process.ppid()
    return None


def kill(victim: str, running: list[psutil.Process], group: int) -> None:
    """Sends the signals of one kill to `running`, what a chain had running a moment ago."""
    if victim == "ctrl-c":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGINT)
        return
    chosen = trainers(running)
    if victim == "dvc":
        below = {child.pid for trainer in chosen for child in _children(trainer)} | {t.pid for t in chosen}
        chosen = [process for process in running if process.pid not in below]
    elif victim != "trainer":
        chosen = running
    for process in chosen:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGTERM if victim == "sigterm" else signal.SIGKILL)


def _children(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return process.children(recursive=True)
    return []


def succeeded(place: Place, launcher: str, code: int | None) -> bool:
    """Whether a start came to its good end; of a queue in the background only the experiment tells."""
    return bool(place.run("dvc", "exp", "list", "--names-only").split()) if launcher == "queue" else code == 0


def mend(place: Place, launcher: str) -> None:
    """What the README tells to do when the same command is refused after a kill."""
    if launcher not in EXPERIMENTS:
        return
    if place.run("git", "stash", "list"):
        place.run("git", "checkout", "--quiet", "--force", BRANCH)
        place.run("git", "stash", "pop")
    else:
        place.run("git", "checkout", "--quiet", BRANCH)


def bring_in(place: Place, launcher: str) -> None:
    """Takes what an experiment made outside of the working folder into it."""
    if launcher in ("temp", "queue"):  # `dvc exp apply` would want the outs of stages that never ran, too
        (name, *_) = place.run("git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/*").split()
        place.run("git", "checkout", "--force", name, "--", "dvc.lock", "metrics/phase_a.json")
        place.run("dvc", "checkout", STAGE)
