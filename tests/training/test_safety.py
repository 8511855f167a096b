"""Training that must stop: broken numbers, broken data, broken machines. Nothing saved is lost, nothing hangs."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml

from pipeline.train_phase_a import main
from stf.config import Params, STFV8Config
from stf.data.video_sbi_dataset import ATTEMPTS_AT_OWN_VIDEO, VideoSBIDataset
from stf.errors import DataError
from stf.training.step import Batch, StepFigures, train_step
from stf.training.train_state import TrainState
from tests.reference.training_commands import PARAMS, digest, run_training

RUNTIME = {"checkpoint_minutes": 0.0001}  # the state after every step


@pytest.fixture
def root(training_root: Path, plain_training: None) -> Path:
    return training_root


def saved_files(root: Path) -> dict[str, str]:
    """Every file that a run saves, except MLflow's."""
    folders = (root / name for name in ("checkpoints", "weights", "metrics"))
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): digest(path) for path in files if "mlflow" not in path.parts}


def in_weights(train_state: TrainState, batches: Sequence[Batch]) -> Sequence[Batch]:
    next(iter(train_state.model.parameters())).data.view(-1)[0] = float("nan")
    return batches


def in_clip(_: TrainState, batches: Sequence[Batch]) -> Sequence[Batch]:
    video = batches[0].video.float() / 255
    video[1, 0, 0, 0, 0] = float("nan")
    return [batches[0]._replace(video=video), *batches[1:]]


def in_gradient(train_state: TrainState, batches: Sequence[Batch]) -> Sequence[Batch]:
    next(iter(train_state.model.parameters())).register_hook(lambda grad: grad * float("inf"))
    return batches


@pytest.mark.parametrize(
    ("insert_nan", "what"),
    [
        pytest.param(in_weights, "the loss", marks=pytest.mark.slow),
        (in_clip, "the loss"),
        (in_gradient, "the gradient's norm"),
    ],
)
def test_a_nan_in_the_middle_of_an_epoch_overwrites_nothing(
    insert_nan: Callable[[TrainState, Sequence[Batch]], Sequence[Batch]],
    what: str,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (root / "weights").mkdir()
    (root / "weights/phase_a.safetensors").write_text("of an earlier training")
    before: dict[str, str] = {}

    def with_nan(train_state: TrainState, batches: Sequence[Batch], where: str) -> StepFigures:
        if where == "epoch 2, step 2":
            before.update(saved_files(root))
            batches = insert_nan(train_state, batches)
        return train_step(train_state, batches, where)

    with monkeypatch.context() as patch:
        patch.setattr("stf.training.loop.train_step", with_nan)
        result = run_training(main, runtime=RUNTIME)
    assert result.exit_code == 1, result.output
    [line] = [line for line in result.output.splitlines() if line.startswith("error:")]
    assert line.startswith(f"error: {what} became ")
    assert "at epoch 2, step 2; nothing was overwritten" in line
    assert {"phase_a.safetensors", "last.pt", "previous.pt", "best.safetensors", "log.csv"} <= {
        Path(name).name for name in before
    }
    assert saved_files(root) == before

    clips = re.findall(r"(\d{3}) from frame (\d+), seed \((\d+), (\d+), (\d+), (\d+)\)", line)
    assert len(clips) == PARAMS["training"]["batch_size"] / 2
    params = Params.load("params.yaml")
    config = STFV8Config.from_params(params, "a")
    dataset = VideoSBIDataset("train", config, data=params.data, sbi=params.sbi, seed=params.seed)
    for video_id, frame, *seed in clips:  # as the message says
        made = dataset.pair(int(seed[1]), int(seed[2])).provenance
        assert (made.video_id, made.start_frame, made.seed) == (video_id, int(frame), tuple(map(int, seed)))

    resumed = run_training(main, runtime=RUNTIME)
    assert resumed.exit_code == 0, resumed.output
    assert "in epoch 2, after step 1 of" in resumed.output


def test_data_damaged_after_verification_stops_training_with_the_causes(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two videos cannot be read any more; each of its pairs is replaced by one of the other."""
    attempt = VideoSBIDataset._attempt

    def broken(self: VideoSBIDataset, seed: Any, stage: Any) -> Any:
        if seed[2] < self.n_pairs // 2 and seed[3] < ATTEMPTS_AT_OWN_VIDEO:
            raise DataError(f"{self.videos[0].frame_paths[0]} is cut off")
        return attempt(self, seed, stage)

    monkeypatch.setattr(VideoSBIDataset, "_attempt", broken)
    data = {"train_pairs_per_video": 4}
    result = run_training(main, data=data)
    assert result.exit_code == 1, result.output
    [line] = [line for line in result.output.splitlines() if line.startswith("error:")]
    assert re.search(
        r"\d+ of the \d+ pairs of training epoch 1 had draws that failed \(\d+ × unreadable data", line
    )
    assert "data.max_failure_share, 0.1" in line
    assert "dvc repro -f verify_data" in line
    assert not list(root.glob("weights/*"))

    allowed = run_training(main, data=data | {"max_failure_share": 1.0})
    assert allowed.exit_code == 0, allowed.output


@contextlib.contextmanager
def training(root: Path, prelude: str = "", **runtime: Any) -> Iterator[subprocess.Popen[str]]:
    """train_phase_a in a process group of its own, 200 epochs long; `prelude` is Python that runs before it."""
    params = PARAMS | {"phase_a": {"epochs": 200, "warmup_epochs": 1}}
    params["runtime"] = PARAMS["runtime"] | RUNTIME | {"num_workers": 2} | runtime
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    script = f"import pipeline.cli\n{prelude}\nfrom pipeline.train_phase_a import main\nmain()"
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=root,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def error_of(process: subprocess.Popen[str]) -> str:
    """The one line that the process ends with; it exits with 1, and leaves no process behind."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, out + err
    assert "Traceback" not in out + err
    [line] = [line for line in err.splitlines() if line.startswith("error:")]
    group = [each.info["pid"] for each in psutil.process_iter(["pid"]) if _group_of(each.pid) == process.pid]
    assert not group
    return line


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


def test_a_loader_worker_that_is_killed_ends_training_with_one_line(root: Path) -> None:
    with training(root) as process:
        until_s = time.monotonic() + 100
        # from epoch 2 on there are no workers but those of the training clips
        while not (
            logs := [log for log in root.glob("checkpoints/*/log.csv") if log.read_text().count("\n") > 2]
        ):
            assert process.poll() is None
            assert time.monotonic() < until_s
            time.sleep(0.1)
        psutil.Process(process.pid).children()[-1].send_signal(signal.SIGKILL)
        line = error_of(process)
    # the second when it dies while it hands over a batch: then no signal is reported
    assert re.search(
        r"a loader worker (was killed, as happens when a|ended, perhaps killed because the) machine or container",
        line,
    )
    assert "runtime.num_workers (now 2)" in line
    assert "training.batch_size (now 4)" in line
    last = logs[0].with_name("last.pt")
    assert str(last.relative_to(root)) in line
    assert torch.load(last, weights_only=True)["extra"]["global_step"] > 0


_LITTLE_MEMORY = """
import resource, psutil, stf.data.pairs as pairs
settle = pairs.settle_worker
def settle_in_little():
    settle()
    room = psutil.Process().memory_info().vms + (1 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
pairs.settle_worker = settle_in_little
"""


@pytest.mark.slow
def test_workers_without_memory_end_training_with_one_line(root: Path) -> None:
    with training(root, _LITTLE_MEMORY) as process:
        line = error_of(process)
    assert "memory is full" in line
    assert "runtime.num_workers (now 2)" in line
    assert "No state was saved yet" in line
