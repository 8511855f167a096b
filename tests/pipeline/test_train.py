"""`python -m pipeline.train_phase_a` from end to end on a tiny tree: outputs, repeatability, refusals."""

from __future__ import annotations

import csv
import functools
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result

from pipeline.train_phase_a import main
from stf.errors import Interrupted
from stf.models.backbone_v8 import STFMambaV8
from stf.models.checkpoint import read_checkpoint
from stf.tracking.loggers import CSV_COLUMNS
from stf.training.budget_tracker import BudgetTracker
from stf.training.preemption import Preemption
from tests.reference.training_commands import digest, query, run_training

NOTICE = Interrupted("stopped by SIGTERM; the same command resumes", 143)
OUTPUTS = ("weights/phase_a.safetensors", "metrics/phase_a.json", "metrics/phase_a_log.csv")


@pytest.fixture
def root(training_root: Path) -> Path:
    return training_root


@pytest.fixture
def train(root: Path, plain_training: None) -> Callable[..., Result]:
    """`train("--option", …, phase_a={"lr": …})` runs the command with PARAMS and these changes."""
    return functools.partial(run_training, main)


def outputs_of(root: Path) -> dict[str, str]:
    return {name: digest(root / name) for name in OUTPUTS if (root / name).exists()}


def test_a_run_writes_its_outputs_and_logs_to_mlflow(root: Path) -> None:
    result = run_training(main)
    assert result.exit_code == 0, result.output
    trained = read_checkpoint(root / OUTPUTS[0])
    network, config, epoch = trained.build(), trained.config, trained.epoch
    summary = json.loads((root / OUTPUTS[1]).read_text())
    assert set(trained.payload) == {
        "format",
        "config",
        "crop",
        "epoch",
        "model",
        "ssm_backend",
    }
    assert summary["a_best_epoch"] == epoch
    assert (summary["a_variant"], summary["a_epochs"], summary["a_planned_epochs"]) == ("A", 2, 2)
    assert not [name for name in summary if "time" in name or "cost" in name]
    with (root / OUTPUTS[2]).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert max(float(row["val_auc"]) for row in rows) == pytest.approx(summary["a_val_auc"], abs=1e-6)
    assert f"best epoch {epoch}" in result.output
    assert config.num_frames == 8
    assert network.training is False

    tags = dict(query(root, "SELECT key, value FROM tags"))
    assert tags["weights_sha256"] == digest(root / OUTPUTS[0])
    assert tags["variant"] == "A"
    assert tags["registered_model"].startswith("stf-mamba")
    metrics = {key for (key,) in query(root, "SELECT DISTINCT key FROM metrics")}
    assert {
        "val/auc",
        "loss/train",
        "hll/margin",
        "time_s/epoch",
        "clips_per_s",
        "cost_usd",
        "gpu_mem_gb",
    } <= metrics
    figures = ("loss", "ce", "hll", "e_real", "e_fake", "margin", "active_share", "grad_norm", "lr")
    assert {f"step/{name}" for name in (*figures, "pairs_failed", "backbone_lr")} <= metrics
    assert not {key for key in metrics if "seed" in key}
    sizes = dict(query(root, "SELECT key, value FROM metrics WHERE key LIKE 'model/%'"))
    assert sizes["model/parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert sizes["model/gmacs_per_clip"] > 0
    assert "scan backend: torch (auto: not mamba_ssm, its kernels need CUDA" in result.output
    assert tags["ssm_backend"] == read_checkpoint(root / OUTPUTS[0]).payload["ssm_backend"] == "torch"
    assert re.match(r"projected \$\d+\.\d\d of \$5\.00: phase A, about ", result.output)
    pictures = {path.name for path in (root / "mlruns/artifacts").rglob("*.png")}
    assert pictures == {"sample_pairs.png", "hll_maps.png"}


def test_workers_and_repetition_change_no_byte_of_the_results(
    train: Callable[..., Result], root: Path
) -> None:
    hashes = []
    for workers in (0, 2):
        result = train("--fresh", runtime={"num_workers": workers})
        assert result.exit_code == 0, result.output
        hashes.append([digest(root / name) for name in OUTPUTS[:2]])
    assert hashes[0] == hashes[1]


def test_options_override_the_file_and_are_recorded(train: Callable[..., Result], root: Path) -> None:
    result = train("--epochs", "1", "--batch-size", "2")
    assert result.exit_code == 0, result.output
    summary = json.loads((root / OUTPUTS[1]).read_text())
    assert (summary["a_planned_epochs"], summary["a_optimizer_steps"]) == (1, 4)
    recorded = dict(query(root, "SELECT key, value FROM params"))
    assert (recorded["phase_a.epochs"], recorded["training.batch_size"]) == ("1", "2")


def test_a_dry_run_touches_no_output(train: Callable[..., Result], root: Path, tmp_path: Path) -> None:
    for name in OUTPUTS:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("as it was")
    before = sorted(str(path) for path in root.rglob("*") if path.name != "params.yaml")
    result = train("--dry-run", phase_a={"epochs": 50})
    assert result.exit_code == 0, result.output
    assert "dry run" in result.output
    assert " 2/2 " in result.output
    assert all((root / name).read_text() == "as it was" for name in OUTPUTS)
    assert sorted(str(path) for path in root.rglob("*") if path.name != "params.yaml") == before


def test_a_finished_run_rewrites_the_same_outputs(train: Callable[..., Result], root: Path) -> None:
    assert train().exit_code == 0
    expected = outputs_of(root)
    [checkpoints] = (root / "checkpoints").iterdir()
    early = torch.load(checkpoints / "last.pt", weights_only=True)
    assert early["epoch"] == 2
    for name in OUTPUTS:
        (root / name).unlink()
    for options in (("--resume", str(checkpoints / "last.pt")), ()):
        result = train(*options)
        assert result.exit_code == 0, result.output
        assert "this training has already finished; its outputs are written from" in result.output
        assert outputs_of(root) == expected
    assert len(query(root, "SELECT run_uuid FROM runs")) == 1


def test_fresh_trains_again_and_loses_nothing(train: Callable[..., Result], root: Path) -> None:
    assert train().exit_code == 0
    expected = outputs_of(root)
    [last] = (root / "checkpoints").glob("*/last.pt")
    before = last.read_bytes()
    result = train("--fresh")
    assert result.exit_code == 0, result.output
    assert "starting at epoch 1" in result.output
    assert last.with_name("before_fresh.pt").read_bytes() == before
    assert {name: outputs_of(root)[name] for name in OUTPUTS[:2]} == {n: expected[n] for n in OUTPUTS[:2]}
    assert len(query(root, "SELECT run_uuid FROM runs")) == 2
    result = train("--fresh", "--resume", str(last))
    assert result.exit_code == 2


def test_state_of_other_code_is_not_resumed(
    train: Callable[..., Result], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train().exit_code == 0
    monkeypatch.setattr("stf.training.run.code_digest", lambda stage: "other")
    result = train()
    assert result.exit_code == 0, result.output
    assert "belongs to other code: moved to" in result.output
    assert "starting at epoch 1" in result.output
    assert " 2/2 " in result.output


# in the validation of the first epoch; after a step, and in the validation of the second
@pytest.mark.parametrize("check", [5, *(pytest.param(check, marks=pytest.mark.slow) for check in (2, 8))])
def test_a_preempted_run_resumes_automatically_to_the_same_results(
    train: Callable[..., Result], root: Path, monkeypatch: pytest.MonkeyPatch, check: int
) -> None:
    random = {"model": {"dropout": 0.3, "drop_path": 0.2}, "training": {"ema_decay": 0.5}}
    assert train(**random).exit_code == 0
    expected = {name: digest(root / name) for name in OUTPUTS[:2]}
    rows = untimed(root / OUTPUTS[2])
    checks = itertools.count(1)
    monkeypatch.setattr(Preemption, "request", lambda self: NOTICE if next(checks) == check else None)
    # of a run that was killed while writing its outputs
    left_over = root / "weights/.phase_a.safetensors.x1y2.part"
    left_over.write_bytes(b"half")
    stopped = train("--fresh", **random)
    assert stopped.exit_code == 143, stopped.output
    assert "the same command resumes" in stopped.output
    (root / OUTPUTS[0]).unlink()
    result = train(**random)
    assert result.exit_code == 0, result.output
    assert re.search(r"resuming from .*last\.pt (after|in) epoch", result.output)
    assert {name: digest(root / name) for name in OUTPUTS[:2]} == expected
    assert untimed(root / OUTPUTS[2]) == rows
    assert not left_over.exists()
    with (root / OUTPUTS[2]).open(encoding="utf-8") as file:
        costs = [float(row["cost_usd"]) for row in csv.DictReader(file)]
    assert costs == sorted(costs)
    assert query(root, "SELECT status FROM runs") == [("FINISHED",), ("FINISHED",)]
    points = "SELECT COUNT(*) FROM metrics WHERE key = 'step/loss' GROUP BY run_uuid, step"
    assert query(root, points) == [(1,)] * 8


def untimed(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV log without what the clock wrote."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        {k: v for k, v in row.items() if k not in ("epoch_time", "cost_usd", "timestamp")} for row in rows
    ]


def test_phase_a_trains_with_a_flag_of_phase_b(train: Callable[..., Result], root: Path) -> None:
    """As `dvc exp run -S phase_a.use_wss=true` asks for it; the file says which network evaluation has to build."""
    result = train("--epochs", "1", phase_a={"use_wss": True})
    assert result.exit_code == 0, result.output
    trained = read_checkpoint(root / OUTPUTS[0])
    network, config = trained.build(), trained.config
    assert config.use_wss
    assert isinstance(network, STFMambaV8)
    assert json.loads((root / OUTPUTS[1]).read_text())["a_variant"] == "A+wss"


def test_a_scan_backend_that_cannot_run_here_is_refused_before_anything_is_touched(
    train: Callable[..., Result], root: Path
) -> None:
    before = sorted(root.rglob("*"))
    result = train(model={"ssm_backend": "mamba_ssm"})
    assert result.exit_code == 2
    assert "mamba_ssm" in result.output
    assert [path for path in sorted(root.rglob("*")) if path.name != "params.yaml"] == before


def test_data_that_changed_since_it_was_verified_is_refused(train: Callable[..., Result], root: Path) -> None:
    next((root / "data").rglob("*.png")).touch()
    result = train()
    assert result.exit_code == 1
    assert "dvc repro verify_data" in result.output
    assert not (root / "checkpoints").exists()


def test_training_that_diverges_names_the_clips_and_leaves_the_last_outputs(
    train: Callable[..., Result], root: Path
) -> None:
    assert train().exit_code == 0
    before = outputs_of(root)
    result = train(phase_a={"lr": 1.0e30, "warmup_epochs": 0})
    assert result.exit_code == 1, result.output
    assert "from frame" in result.output
    assert "seed (0, " in result.output
    assert outputs_of(root) == before
    statuses = query(root, "SELECT status FROM runs ORDER BY start_time")
    assert statuses == [("FINISHED",), ("FAILED",)]


def test_a_spent_budget_ends_the_run_cleanly_and_refuses_the_next(
    train: Callable[..., Result], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count(step=1000.0)  # every look at the clock costs $0.39
    slow = functools.partial(BudgetTracker, clock=lambda: next(seconds))
    monkeypatch.setattr("stf.training.budget.BudgetTracker", slow)
    monkeypatch.setattr("stf.training.budget.process_age_s", lambda: 0.0)  # pytest's
    monkeypatch.setattr("stf.training.budget_tracker.BEAT_S", 99.0)  # the heartbeat looks at the clock too
    sections: dict[str, dict[str, Any]] = {"phase_a": {"epochs": 20}, "runtime": {"billing": True}}
    result = train(**sections)
    assert result.exit_code == 0, result.output
    assert "the budget stopped training in epoch" in result.output
    assert "epochs left fit in" in result.output
    summary = json.loads((root / OUTPUTS[1]).read_text())
    assert summary["a_stopped_by_budget"]
    assert summary["a_epochs"] < summary["a_planned_epochs"] == 20
    assert read_checkpoint(root / OUTPUTS[0]).epoch == summary["a_best_epoch"]
    before = outputs_of(root)
    (root / OUTPUTS[0]).unlink()
    again = train(**sections)  # no budget for a further step, but enough for the outputs of the finished ones
    assert again.exit_code == 0, again.output
    assert "the budget stopped training in epoch" in again.output
    assert outputs_of(root).keys() == before.keys()
    assert json.loads((root / OUTPUTS[1]).read_text())["a_stopped_by_budget"]
    other_plan = train(**sections | {"phase_a": {"epochs": 20, "lr": 1e-4}})
    assert other_plan.exit_code == 0, other_plan.output  # another plan has its own budget
    for path in (root / "checkpoints").glob("*/*.pt"):
        path.unlink()
    refused = train(**sections)
    assert refused.exit_code == 1
    assert "earlier runs of this plan spent $" in refused.output


@pytest.mark.parametrize(
    ("options", "sections", "expected"),
    [
        (("--epochs", "0"), {}, "--epochs"),
        (("--batch-size", "3"), {}, "batch_size"),
        (("--resume", "nowhere.pt"), {}, "nowhere.pt"),
        (("--params", "nowhere.yaml"), {}, "nowhere.yaml"),
        ((), {"phase_a": {"epoch": 3}}, "epochs"),
    ],
)
def test_wrong_options_are_usage_errors(
    train: Callable[..., Result], options: tuple[str, ...], sections: dict[str, Any], expected: str
) -> None:
    result = train(*options, **sections)
    assert result.exit_code == 2
    assert expected in result.output


def test_activation_checkpointing_changes_no_weight(train: Callable[..., Result], root: Path) -> None:
    assert train().exit_code == 0
    without = digest(root / OUTPUTS[0])
    result = train("--fresh", runtime={"activation_checkpointing": True})
    assert result.exit_code == 0, result.output
    assert digest(root / OUTPUTS[0]) == without


def test_compiling_without_a_compiler_is_refused(
    train: Callable[..., Result], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    result = train(runtime={"compile": True})
    assert result.exit_code == 2, result.output
    assert "error: runtime.compile needs the C++ compiler no-such-compiler" in result.output
