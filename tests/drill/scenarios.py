"""How a training is started, and how it is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.drill.scratch import BRANCH, MARK, SEED, Clone

STAGE = "train_phase_a"
_EXPERIMENT = ("dvc", "exp", "run", "-S", f"seed={SEED}", STAGE)
# The drill waits for the last command. After a kill it repeats them all, as a user would.
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
class Scenario:
    """A launcher and the victim of its kills."""

    launcher: str
    victim: str

    @property
    def name(self) -> str:
        """'repro:dvc'."""
        return f"{self.launcher}:{self.victim}"


# Without dvc there is only the trainer to kill. A queue runs in the background, where no Ctrl-C reaches it.
SCENARIOS = tuple(
    Scenario(launcher, victim)
    for launcher in LAUNCHERS
    for victim in VICTIMS
    if (launcher, victim) not in {("python", "dvc"), ("python", "trainer"), ("queue", "ctrl-c")}
)


def start(clone: Clone, launcher: str, log: Path) -> subprocess.Popen[bytes]:
    """Starts a training as a terminal does: in a process group of its own. Its output is appended to `log`."""
    *preparations, last = LAUNCHERS[launcher]
    with log.open("ab") as output:
        for command in preparations:
            subprocess.run(
                command, cwd=clone.path, env=clone.env(), stdout=output, stderr=output, check=False
            )
        return subprocess.Popen(
            last, cwd=clone.path, env=clone.env(), stdout=output, stderr=output, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip


def processes(clone: Clone) -> list[psutil.Process]:
    """Every process that was started in `clone` and still runs, whatever its parent is now."""
    running = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == str(clone.path) and process.status() != psutil.STATUS_ZOMBIE:
                running.append(process)
    return running


def trainers(running: list[psutil.Process]) -> list[psutil.Process]:
    """The trainer without its loader workers, which are forks of it."""
    candidates = []
    for process in running:
        with contextlib.suppress(psutil.Error):
            if f"pipeline.{STAGE}" in process.cmdline() and "python" in process.name():
                candidates.append(process)
    pids = {process.pid for process in candidates}
    return [process for process in candidates if _parent(process) not in pids]


def _parent(process: psutil.Process) -> int | None:
    with contextlib.suppress(psutil.Error):
        return process.ppid()
    return None


def kill(victim: str, running: list[psutil.Process], group: int) -> None:
    """Sends the signals of one kill; `running` are the processes of a moment ago."""
    if victim == "ctrl-c":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGINT)
        return
    victims = trainers(running)
    if victim == "dvc":
        spared = {child.pid for trainer in victims for child in _children(trainer)} | {t.pid for t in victims}
        victims = [process for process in running if process.pid not in spared]
    elif victim != "trainer":
        victims = running
    for process in victims:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGTERM if victim == "sigterm" else signal.SIGKILL)


def _children(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return process.children(recursive=True)
    return []


def succeeded(clone: Clone, launcher: str, code: int | None) -> bool:
    """Whether a start succeeded. A queue runs in the background: there the experiment must exist."""
    return bool(clone.run("dvc", "exp", "list", "--names-only").split()) if launcher == "queue" else code == 0


def return_to_branch(clone: Clone, launcher: str) -> None:
    """Runs the git commands of docs/resume.md, for a start that is refused after a kill."""
    if launcher not in EXPERIMENTS:
        return
    if clone.run("git", "stash", "list"):
        clone.run("git", "checkout", "--quiet", "--force", BRANCH)
        clone.run("git", "stash", "pop")
    else:
        clone.run("git", "checkout", "--quiet", BRANCH)


def check_out_results(clone: Clone, launcher: str) -> None:
    """Copies an experiment's results into the working folder, if it ran outside."""
    if launcher in ("temp", "queue"):  # `dvc exp apply` also wants the outputs of stages that never ran
        (name, *_) = clone.run("git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/*").split()
        clone.run("git", "checkout", "--force", name, "--", "dvc.lock", "metrics/phase_a.json")
        clone.run("dvc", "checkout", STAGE)
