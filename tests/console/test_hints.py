"""Errors from outside that end a training: torch's message becomes one line that says what to lower."""

from __future__ import annotations

import dataclasses
import errno
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from stf.config import Params
from stf.console.hints import explained
from stf.errors import DataError, Interrupted, TrainingError
from stf.training.loop import require_few_failures

FAILURES = Counter({"unreadable data": 9, "invisible blend": 2})
WORKERS, BATCH = (
    "runtime.num_workers (now 3)",
    "training.batch_size (now 8) to 4 with training.grad_accum 4 (now 2)",
)
CHECKPOINTING = "runtime.activation_checkpointing"
IN_WORKER = (
    'Caught {0} in DataLoader worker process 1.\nOriginal Traceback (most recent call last):\n  File "x.py"\n'
)


def params_with(**runtime: Any) -> Params:
    params = Params()
    training = dataclasses.replace(params.training, batch_size=8, grad_accum=2)
    settings = {"num_workers": 3} | runtime
    return dataclasses.replace(
        params, training=training, runtime=dataclasses.replace(params.runtime, **settings)
    )


def message_of(error: BaseException, folder: Path, **runtime: Any) -> str:
    with (
        pytest.raises(TrainingError) as raised,
        explained(params_with(**runtime), folder, lambda: "in epoch 2, after step 3 of 10"),
    ):
        raise error
    text = str(raised.value)
    assert "\n" not in text
    assert "in epoch 2, after step 3 of 10" in text
    return text


@pytest.mark.parametrize(
    ("error", "meaning", "helps"),
    [
        (
            RuntimeError("DataLoader worker (pid 77) is killed by signal: Killed. "),
            "was killed",
            (WORKERS, BATCH),
        ),
        (
            RuntimeError("DataLoader worker (pid(s) 77, 78) exited unexpectedly"),
            "ended, perhaps killed",
            (WORKERS, BATCH),
        ),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Aborted. "),
            "ended unexpectedly",
            (WORKERS,),
        ),
        (
            ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
            "ended, perhaps killed",
            (WORKERS, BATCH),
        ),
        (
            RuntimeError(
                "DataLoader worker (pid 77) is killed by signal: Bus error. It is possible that dataloader's workers "
                "are out of shared memory. Please try to raise your shared memory limit."
            ),
            "/dev/shm",
            ("--shm-size", WORKERS, BATCH),
        ),
        (
            RuntimeError("unable to write to file </torch_9_1>: No space left on device (28)"),
            "/dev/shm",
            ("--shm-size", WORKERS),
        ),
        (OSError(errno.EMFILE, "Too many open files"), "too many files", ("ulimit -n", WORKERS)),
        (
            DataError("train pair 2 failed 11 times; last: 004.npy cannot be read: Too many open files"),
            "too many files",
            ("ulimit -n", WORKERS),
        ),
        (RuntimeError("received 0 items of ancdata"), "too many files", ("ulimit -n", WORKERS)),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation"),
            "GPU's memory",
            (CHECKPOINTING, BATCH),
        ),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 99 bytes"),
            "machine's memory",
            (WORKERS, CHECKPOINTING, BATCH),
        ),
        (MemoryError(), "machine's memory", (WORKERS, CHECKPOINTING, BATCH)),
        (
            MemoryError(IN_WORKER.format("MemoryError") + "numpy._core._exceptions.ArrayMemoryError: Unable"),
            "machine's memory is full, in epoch 2, after step 3 of 10 (Unable)",
            (WORKERS, BATCH),
        ),
        (cv2.error("(-4:Insufficient memory) Failed to allocate 9 bytes"), "machine's memory", (WORKERS,)),
    ],
)
def test_a_lack_of_memory_or_space_is_one_line_with_what_to_lower(
    error: BaseException, meaning: str, helps: tuple[str, ...], tmp_path: Path
) -> None:
    text = message_of(error, tmp_path)
    assert meaning in text
    assert all(each in text for each in helps), text


def test_a_parameter_at_its_minimum_is_not_suggested(tmp_path: Path) -> None:
    text = message_of(MemoryError(), tmp_path, num_workers=0, activation_checkpointing=True)
    assert "num_workers" not in text
    assert "activation_checkpointing" not in text
    assert BATCH in text


def test_the_message_names_the_state_to_resume_from_if_there_is_one(tmp_path: Path) -> None:
    assert "starts at epoch 1" in message_of(MemoryError(), tmp_path)
    (tmp_path / "last.pt").write_bytes(b"state")
    assert f"{tmp_path / 'last.pt'} is untouched: the same command resumes" in message_of(
        MemoryError(), tmp_path
    )


def test_a_workers_own_error_is_shown_without_its_traceback(tmp_path: Path) -> None:
    text = (
        IN_WORKER.format("DataError")
        + "stf.errors.DataError: train pair 3 (000) failed 11 times: run verify_data"
    )
    with (
        pytest.raises(DataError, match=r"^train pair 3 \(000\) failed 11 times: run verify_data$"),
        explained(params_with(), tmp_path, str),
    ):
        raise DataError(text)


@pytest.mark.parametrize(
    "error",
    [
        Interrupted("stopped by SIGTERM", 143),
        TrainingError("the loss became nan"),
        DataError("/dev/shm/data/000.png is damaged"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        OSError(errno.ENOSPC, "No space left on device", "checkpoints/log.csv"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_pass_unchanged(error: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as raised, explained(params_with(), tmp_path, str):
        raise error
    assert raised.value is error


class _Dying:
    def __init__(self, text: str) -> None:
        self.text = text

    def __del__(self) -> None:
        raise RuntimeError(self.text)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_workers_death_in_a_callback_prints_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: printed.append(str(unraisable.exc_value)))
    with explained(params_with(), tmp_path, str):
        _Dying("DataLoader worker (pid 77) is killed by signal: Killed. ")
        _Dying("another")
    _Dying("DataLoader worker (pid 78) is killed by signal: Killed. ")
    assert printed == ["another", "DataLoader worker (pid 78) is killed by signal: Killed. "]


@pytest.mark.parametrize(
    ("failed", "pairs", "share", "stops"),
    [
        (0, 100, 0.0, False),
        (10, 100, 0.1, False),
        (11, 100, 0.1, True),
        (3, 4, 0.1, False),  # chance
        (4, 4, 0.1, True),
        (100, 100, 1.0, False),
        (4, 1000, 0.0, True),
    ],
)
def test_more_failed_pairs_than_allowed_stop_with_the_counts(
    failed: int, pairs: int, share: float, stops: bool
) -> None:
    if not stops:
        require_few_failures(failed, pairs, share, FAILURES, "training epoch 1")
        return
    with pytest.raises(DataError) as raised:
        require_few_failures(failed, pairs, share, FAILURES, "training epoch 1")
    text = str(raised.value)
    assert f"{failed} of the {pairs} pairs of training epoch 1" in text
    assert "9 × unreadable data, 2 × invisible blend" in text
    assert "dvc repro -f verify_data" in text
