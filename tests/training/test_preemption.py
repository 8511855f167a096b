"""How a training is asked to leave, by signals that this test's own process sends itself or by a parent that goes."""

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
from stf.training.preemption import Leaving, listening


@pytest.mark.parametrize(("signum", "named"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_a_signal_waits_for_the_end_of_the_step(signum: signal.Signals, named: str) -> None:
    leaving = Leaving()
    assert leaving.asked() is None
    with leaving.answered_between_steps():
        leaving._on_signal(signum, None)
        request = leaving.asked()
    assert request is not None
    assert named in str(request)
    assert request.exit_code == 128 + signum


def test_outside_of_training_it_is_answered_at_once() -> None:
    with pytest.raises(Interrupted, match="SIGTERM"):
        Leaving()._on_signal(signal.SIGTERM, None)


def test_one_request_may_arrive_twice_and_a_second_one_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    leaving, now_s = Leaving(), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    with leaving.answered_between_steps():
        leaving._on_signal(signal.SIGINT, None)
        now_s[0] = 1.0
        leaving._on_signal(signal.SIGTERM, None)  # torchrun passes a Ctrl-C on
        now_s[0] = 5.0
        with pytest.raises(Interrupted, match="Ctrl-C"):
            leaving._on_signal(signal.SIGINT, None)


STAGE = """
import sys, time
from stf.training.preemption import Leaving
print("imported", flush=True)
sys.stdin.readline()  # the seconds that importing torch takes, in which dvc may go
leaving = Leaving()
print("ready", flush=True)
while leaving.asked() is None:
    time.sleep(0.01)
print(leaving.asked(), leaving.asked().exit_code, flush=True)
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
def test_a_stage_whose_dvc_has_gone_is_asked_to_leave(dvc: Path, by_dvc: bool, early: bool) -> None:
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
    told = select.select([process.stdout], [], [], 60.0 if by_dvc else 0.0)[0]
    line = process.stdout.readline() if told else b""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert line.startswith(b"stopped by the end of dvc") == by_dvc
    assert line.endswith(b" 143\n") == by_dvc


def test_dvc_that_went_before_the_stage_could_look_is_noticed(tmp_path: Path) -> None:
    """Python's own start takes a moment: who dies in it is no ancestor any more when the stage looks."""
    program = tmp_path / "dvc"
    program.write_text('#!/bin/bash\n"$@" 0<&0 & wait\n')
    program.chmod(0o755)
    stage = (
        "import sys; print('started', flush=True); sys.stdin.readline()\n"
        "from stf.training.preemption import Leaving; print(Leaving().asked(), flush=True)"
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


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)]
    with listening():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1


STUCK = """
import stf.training.preemption as leaving, time
leaving.LEAVE_S = 0.5
with leaving.listening() as asked, asked.answered_between_steps():
    print("ready", flush=True)
    while True:
        time.sleep(0.01)  # a step that never ends
"""


def test_who_is_stuck_in_a_step_leaves_all_the_same() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "leaving with the last state kept" in errors
