"""How a training is asked to leave, by signals that this test's own process sends itself or by a parent that goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from pipeline.leaving import Leaving, listening
from stf.errors import Interrupted


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


def test_a_stage_whose_dvc_has_gone_is_asked_to_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "train_phase_a")
    leaving = Leaving()
    assert leaving.asked() is None
    monkeypatch.setattr(os, "getppid", lambda: 1)
    request = leaving.asked()
    assert request is not None
    assert "dvc" in str(request)
    assert request.exit_code == 143


def test_a_command_that_nobody_else_started_survives_its_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)
    leaving = Leaving()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert leaving.asked() is None


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)]
    with listening():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1


STUCK = """
import pipeline.leaving as leaving, time
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
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 143
    assert "leaving with the last state kept" in errors


ORPHANED_EARLY = """
import os, time, pipeline.leaving as leaving
parent = os.getppid()
print("imported", flush=True)
while os.getppid() == parent:  # the seconds that importing torch takes
    time.sleep(0.01)
print(leaving.Leaving().asked(), flush=True)
"""


def test_a_dvc_that_goes_while_the_stage_still_imports_is_missed_too() -> None:
    starter = """import subprocess, sys, time; subprocess.Popen([sys.executable, "-c", sys.argv[1]]); time.sleep(60)"""
    process = subprocess.Popen(
        [sys.executable, "-c", starter, ORPHANED_EARLY],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"DVC_STAGE": "train_phase_a"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "imported\n"
    process.kill()
    assert "the end of dvc" in process.stdout.readline()
    process.wait()
