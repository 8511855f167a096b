"""Two processes under torchrun (gloo, CPU): the figures of one, one console, one MLflow run, and an end for both."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from pipeline.eval_a import main as eval_a
from pipeline.train_phase_a import main as train_phase_a
from stf.io.distributed import ALONE
from tests.reference.training_commands import MODEL, PARAMS, query, run_training
from tests.reference.training_ranks import CASES, MORE_CASES, STEPS, learn

pytestmark = pytest.mark.xdist_group("two processes")
ROOT = Path(__file__).resolve().parents[2]
COUNTED = ("clips", "correct", "epoch", "step", "global_step", "failures", "lr")
MEASURED = ("loss", "ce", "hll", "e_real", "e_fake", "margin", "active_share", "grad_norm")


def two_process_arguments(module: str, *arguments: str, nproc: bool = False) -> dict[str, Any]:
    """What subprocess needs to start `module` in two processes, by torchrun or by STF_NPROC."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= {"STF_NPROC": "2"} if nproc else {}
    command = (sys.executable, *(() if nproc else torchrun), "-m", module, *arguments)
    return {"args": command, "env": environment, "text": True}


def run_in_two_processes(
    module: str, *arguments: str, nproc: bool = False
) -> subprocess.CompletedProcess[str]:
    """`module` in two processes, until they end."""
    return subprocess.run(
        **two_process_arguments(module, *arguments, nproc=nproc), capture_output=True, timeout=240
    )


Results = dict[str, Any]  # of one rank, by case


@pytest.fixture(scope="module")
def results_by_rank(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Results]]:
    """`results_by_rank(case)`: what each of two ranks saw of all cases that run together with this one."""

    @functools.cache
    def run(*options: str) -> list[Results]:
        folder = tmp_path_factory.mktemp("ranks")
        done = run_in_two_processes("tests.reference.training_ranks", str(folder), *options)
        assert (done.stdout, done.stderr) == ("rank 0 has finished\n", "")
        return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]

    return lambda case: run("--more") if case in MORE_CASES else run()


each_case = pytest.mark.parametrize(
    "case", [*CASES, *(pytest.param(case, marks=pytest.mark.slow) for case in MORE_CASES)]
)


@each_case
def test_two_processes_train_as_one(
    results_by_rank: Callable[[str], list[Results]], case: str, tmp_path: Path
) -> None:
    """Accumulation, moving average, other first weights, and a stop with resume after the first epoch included."""
    one = json.loads(json.dumps(learn(case, tmp_path, ALONE)))
    two = results_by_rank(case)[0][case]
    assert len(one["steps"]) == len(two["steps"])
    for expected, got in zip(one["steps"], two["steps"], strict=True):
        assert {name: got[name] for name in COUNTED} == {name: expected[name] for name in COUNTED}
        for name in MEASURED:
            assert got[name] == pytest.approx(expected[name], abs=1e-4, nan_ok=True), (
                name,
                expected["global_step"],
            )
    for expected, got in zip(one["epochs"], two["epochs"], strict=True):
        for name in ("train_loss", "train_acc", "val_loss", "val_auc", "ce_loss", "hll_loss"):
            assert got[name] == pytest.approx(expected[name], abs=1e-4), name
    assert one["names"] == two["names"]  # of the weights, in checkpoints too


def test_two_processes_and_one_are_compared_over_twenty_steps(
    results_by_rank: Callable[[str], list[Results]],
) -> None:
    assert len(results_by_rank("contrastive")[0]["contrastive"]["steps"]) >= STEPS


@each_case
def test_all_processes_end_with_the_same_bits(
    results_by_rank: Callable[[str], list[Results]], case: str
) -> None:
    first, second = (results[case] for results in results_by_rank(case))
    assert first["weights"] == second["weights"]
    assert second["steps"] == []  # only rank 0 has the callbacks


NAN = "the loss became nan at epoch 1, step 3; .* 004 from frame 0"


@pytest.mark.parametrize(
    ("failure", "rank", "message"),
    [
        ("nan", 1, NAN),
        pytest.param("nan", 0, "the loss became nan", marks=pytest.mark.slow),
        pytest.param("loader", 1, "a torn picture", marks=pytest.mark.slow),
        pytest.param(
            "forward", 1, "process 1 failed: RuntimeError: The size of tensor", marks=pytest.mark.slow
        ),
        ("backward", 1, "process 1 failed: ZeroDivisionError"),
        pytest.param("backward", 0, "unexpected ZeroDivisionError", marks=pytest.mark.slow),
        pytest.param("killed", 1, "another process of this run has ended", marks=pytest.mark.slow),
    ],
)
def test_a_process_that_fails_ends_both_with_one_line(
    failure: str, rank: int, message: str, tmp_path: Path
) -> None:
    """Also where the other one waits for its gradients."""
    arguments = (str(tmp_path), "--failure", failure, "--rank", str(rank))
    done = run_in_two_processes("tests.reference.training_ranks", *arguments)
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert re.match(f"error: {message}", line)
    assert not list(tmp_path.rglob("*.pt"))


@pytest.fixture
def quiet_params(training_root: Path) -> dict[str, Any]:
    """Parameters without randomness in the forward pass, written to params.yaml."""
    params = PARAMS | {"model": MODEL | {"dropout": 0.0, "drop_path": 0.0}}
    params |= {"evaluation": {"clips_per_video": 2, "bootstrap_samples": 100}}
    (training_root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    return params


def test_the_training_command_in_two_processes_writes_what_one_writes(
    training_root: Path, quiet_params: dict[str, Any]
) -> None:
    assert run_training(train_phase_a, model=quiet_params["model"]).exit_code == 0
    expected = pd.read_csv("metrics/phase_a_log.csv")
    done = run_in_two_processes("pipeline.train_phase_a", "--fresh", nproc=True)
    assert done.returncode == 0, done.stderr
    got = pd.read_csv("metrics/phase_a_log.csv")
    same = ["epoch", "train_loss", "train_acc", "val_loss", "val_acc", "val_auc", "lr", "ce_loss", "hll_loss"]
    pd.testing.assert_frame_equal(got[same], expected[same], atol=1e-4, rtol=0)
    assert done.stdout.count("best epoch") == done.stdout.count("scan backend") == 1
    runs = "SELECT value FROM tags WHERE key = 'processes' ORDER BY value"
    assert query(training_root, runs) == [("1",), ("2",)]
    steps = "SELECT COUNT(*) FROM metrics WHERE key = 'step/loss' GROUP BY run_uuid"
    assert len(set(query(training_root, steps))) == 1


@pytest.mark.slow
def test_the_evaluation_command_in_two_processes_writes_what_one_writes(
    training_root: Path, quiet_params: dict[str, Any]
) -> None:
    sections = {name: values for name, values in quiet_params.items() if name in ("model", "evaluation")}
    assert run_training(train_phase_a, **sections).exit_code == 0
    assert CliRunner().invoke(eval_a, ["--output", "one.json"]).exit_code == 0
    done = run_in_two_processes("pipeline.eval_a", "--output", "two.json", nproc=True)
    assert done.returncode == 0, done.stderr
    assert Path("one.json").read_bytes() == Path("two.json").read_bytes()


@pytest.mark.slow
def test_two_preempted_processes_resume_to_the_same_weights(training_root: Path, quiet_params: Any) -> None:
    """A SIGTERM to the starting process only, in the middle of training: one state is saved, both resume from it."""
    many = yaml.safe_load(Path("params.yaml").read_text()) | {"phase_a": {"epochs": 12, "warmup_epochs": 1}}
    many["model"] |= {"dropout": 0.3}
    Path("params.yaml").write_text(yaml.safe_dump(many))
    assert run_in_two_processes("pipeline.train_phase_a", nproc=True).returncode == 0
    expected = Path("weights/phase_a.safetensors").read_bytes()

    again = subprocess.Popen(
        **two_process_arguments("pipeline.train_phase_a", "--fresh", nproc=True),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert again.stdout is not None
    for line in again.stdout:
        if line.strip().startswith("3/12 "):
            again.terminate()
            break
    output, errors = again.communicate(timeout=60)
    assert again.returncode == 143
    assert "stopped by SIGTERM" in errors
    assert "12/12" not in output
    Path("weights/phase_a.safetensors").unlink()
    last = run_in_two_processes("pipeline.train_phase_a", nproc=True)
    assert last.returncode == 0, last.stderr
    assert "resuming from" in last.stdout
    assert Path("weights/phase_a.safetensors").read_bytes() == expected


@pytest.mark.slow
def test_an_error_keeps_its_exit_code_and_its_single_line(training_root: Path, quiet_params: Any) -> None:
    for batch_size, message in (
        ("3", "batch_size is 3"),
        ("6", "training.batch_size is 6 clips for 2"),
    ):
        done = run_in_two_processes("pipeline.train_phase_a", "--batch-size", batch_size, nproc=True)
        assert done.returncode == 2
        [line] = done.stderr.splitlines()
        assert line.startswith(f"error: {message}")
