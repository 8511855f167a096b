"""Preemption: by signals that the test's own process receives, or by the end of a parent."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stf.errors import Interrupted
from stf.training.preemption import Preemption, watch_for_preemption


@pytest.mark.parametrize(("signum", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_a_signal_waits_for_the_end_of_the_step(signum: signal.Signals, name: str) -> None:
    preemption = Preemption()
    assert preemption.request() is None
    with preemption.deferred():
        preemption._on_signal(signum, None)
        request = preemption.request()
    assert request is not None
    assert name in str(request)
    assert request.exit_code == 128 + signum


def test_outside_of_training_a_signal_raises_at_once() -> None:
    with pytest.raises(Interrupted, match="SIGTERM"):
        Preemption()._on_signal(signal.SIGTERM, None)


def test_one_request_may_arrive_twice_and_a_second_one_is_not_deferred(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    preemption, now_s = Preemption(), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    with preemption.deferred():
        preemption._on_signal(signal.SIGINT, None)
        now_s[0] = 1.0
        preemption._on_signal(signal.SIGTERM, None)  # torchrun passes a Ctrl-C on
        now_s[0] = 5.0
        with pytest.raises(Interrupted, match="Ctrl-C"):
            preemption._on_signal(signal.SIGINT, None)


STAGE = """
import sys, time
from stf.training.preemption import Preemption
print("imported", flush=True)
sys.stdin.readline()  # the seconds that importing torch takes, in which dvc may go
preemption = Preemption()
print("ready", flush=True)
while preemption.request() is None:
    time.sleep(0.01)
print(preemption.request(), preemption.request().exit_code, flush=True)
"""


@pytest.fixture
def dvc(tmp_path: Path) -> Path:
    """A program of that name, which runs its argument by way of a shell that stays, as torchrun would."""
    program = tmp_path / "dvc"
    program.write_text('#!/bin/bash\nbash -c "$1; true" 0<&0 & wait\n')
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("by_dvc", [True, False])
def test_a_stage_stops_when_its_dvc_has_ended(dvc: Path, by_dvc: bool, early: bool) -> None:
    """A command that a user's own shell script started survives that."""
    environment = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"}
    environment |= {"DVC_STAGE": "train_phase_a"} if by_dvc else {}
    process = subprocess.Popen(
        (dvc, f"{sys.executable} -c '{STAGE}'"), env=environment, start_new_session=True, bufsize=0,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"imported\n"
    for _ in range(2):
        if early:
            process.kill()
        else:
            process.stdin.write(b"\n")
            assert process.stdout.readline() == b"ready\n"
        early = not early
    time.sleep(0.5)
    ready = select.select([process.stdout], [], [], 60.0 if by_dvc else 0.0)[0]
    line = process.stdout.readline() if ready else b""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert line.startswith(b"stopped by the end of dvc") == by_dvc
    assert line.endswith(b" 143\n") == by_dvc


def test_a_dvc_that_ended_before_the_stage_could_look_is_noticed(tmp_path: Path) -> None:
    """Python's own start takes a moment: a process that ends in it is no longer an ancestor when the stage looks."""
    program = tmp_path / "dvc"
    program.write_text('#!/bin/bash\n"$@" 0<&0 & wait\n')
    program.chmod(0o755)
    stage = (
        "import sys; print('started', flush=True); sys.stdin.readline()\n"
        "from stf.training.preemption import Preemption; print(Preemption().request(), flush=True)"
    )
    process = subprocess.Popen(
        (program, sys.executable, "-c", stage), env=os.environ | {"DVC_STAGE": "train_phase_a"},
        start_new_session=True, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"started\n"
    process.kill()
    process.wait()
    process.stdin.write(b"\n")
    assert process.stdout.readline().startswith(b"stopped by the end of dvc")


def test_handlers_are_restored() -> None:
    before = [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)]
    with watch_for_preemption():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1


STUCK = """
import stf.training.preemption as module, time
module.EXIT_LIMIT_S = 0.5
with module.watch_for_preemption() as preemption, preemption.deferred():
    print("ready", flush=True)
    while True:
        time.sleep(0.01)  # a step that never ends
"""


def test_a_process_stuck_in_a_step_exits_anyway() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "the last saved state stays" in errors
