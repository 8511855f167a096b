"""`python -m pipeline.train_phase_b` on a tiny tree: what it starts from, when it refuses, what it logs to MLflow."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from click.testing import Result

from pipeline.train_phase_a import main as train_a
from pipeline.train_phase_b import main as train_b
from stf.config import Params, STFV8Config
from stf.models.checkpoint import read_checkpoint, save_checkpoint
from stf.models.network import build_network
from stf.tracking.run import track
from stf.training.budget_tracker import BudgetTracker
from stf.training.ledger import ledger_usd
from tests.reference.training_commands import MODEL, digest, query, run_training

START = "weights/phase_a.safetensors"
OUTPUTS = ("weights/phase_b.safetensors", "metrics/phase_b.json", "metrics/phase_b_log.csv")
Train = Callable[..., Result]


def write_start(root: Path, seed: int = 0) -> None:
    """A phase A that nobody trained."""
    settings = {"num_frames": 8, "img_size": 32, **MODEL}
    config = dataclasses.replace(STFV8Config.phase_a(), **settings)
    torch.manual_seed(seed)
    save_checkpoint(root / START, build_network(config), config=config, epoch=7)


def write_gate(root: Path, passed: bool = True, threshold: float = 0.7) -> None:
    (root / "metrics/gate_a.json").write_text(json.dumps({"passed": passed, "threshold": threshold}))


def write_report(root: Path, auc: float) -> None:
    (root / "metrics/eval_a.json").write_text(json.dumps({"a_auc_overall": auc}))


@pytest.fixture
def root(training_root: Path) -> Path:
    """Verified data, phase A's weights, an open gate."""
    write_start(training_root)
    write_gate(training_root)
    return training_root


@pytest.fixture
def train(root: Path, plain_training: None) -> Train:
    """`train("--option", …, phase_b={"lr": …})` runs the command with PARAMS and these changes."""
    return functools.partial(run_training, train_b)


def files_of(root: Path) -> set[Path]:
    """All but what every call of `train` and of MLflow writes."""
    files = (path for path in root.rglob("*") if path.is_file() and "mlruns" not in path.parts)
    return {path for path in files if path.name != "params.yaml"}


def test_it_starts_from_phase_a_and_reports_what_was_loaded(train: Train, root: Path) -> None:
    with track("train_phase_a", params=Params()) as run:
        run.tie_weights(digest(Path(START)))
    result = train("--epochs", "1", phase_b={"lr": 1.0e-6})
    assert result.exit_code == 0, result.output
    before, after = read_checkpoint(START).weights, read_checkpoint(OUTPUTS[0]).weights
    common = [name for name in after if name in before and before[name].shape == after[name].shape]
    assert len(common) > len(before) / 2
    for name in common:  # a rate of 1e-6 moves no weight by more than its few steps
        assert torch.allclose(before[name].float(), after[name].float(), atol=1e-4), name

    assert f"starting from {START}, epoch 7" in result.output
    metrics = dict(query(root, "SELECT key, value FROM metrics WHERE key LIKE 'transfer/%'"))
    assert metrics["transfer/loaded_tensors"] == len(common)
    assert metrics["transfer/new_tensors"] == len(set(after) - set(before))
    tags = dict(query(root, "SELECT key, value FROM tags WHERE key LIKE 'starting%'"))
    (training_run,) = query(root, "SELECT run_uuid FROM tags WHERE key = 'stage' AND value = 'train_phase_a'")
    assert tags == {"starting_weights_sha256": digest(root / START), "starting_run_id": training_run[0]}
    table = next((root / "mlruns/artifacts").rglob("transfer/table.txt")).read_text()
    assert "stage3" in table
    assert f"epoch 7: {len(common)} loaded, {len(set(after) - set(before))} new" in result.output


def test_two_runs_end_with_the_same_bytes_and_the_evaluation_reads_them(train: Train, root: Path) -> None:
    hashes = []
    for workers in (0, 2):
        result = train("--fresh", runtime={"num_workers": workers})
        assert result.exit_code == 0, result.output
        hashes.append([digest(root / name) for name in OUTPUTS[:2]])
    assert hashes[0] == hashes[1]
    trained = read_checkpoint(OUTPUTS[0])
    config, epoch = trained.config, trained.epoch
    summary = json.loads((root / OUTPUTS[1]).read_text())
    assert (summary["b_variant"], summary["b_best_epoch"]) == (config.variant(), epoch)
    assert summary["b_planned_epochs"] == 2


@pytest.mark.parametrize("report", [None, "{", '{"a_auc_overall": null}', "[]"])
def test_a_closed_gate_is_refused_with_the_figures(train: Train, root: Path, report: str | None) -> None:
    write_gate(root, passed=False)
    before = files_of(root)
    write_report(root, 0.58214)
    result = train()
    assert result.exit_code == 1
    assert (
        "phase A's overall AUC on real deepfakes, 0.5821, is not above phase_b.min_phase_a_auc = 0.7"
        in result.output
    )
    assert "Billing is off" in result.output
    assert "phase_a.epochs" in result.output
    (root / "metrics/eval_a.json").unlink()
    if report is not None:
        (root / "metrics/eval_a.json").write_text(report)
    result = train()
    assert result.exit_code == 1
    assert "AUC on real deepfakes is not above phase_b.min_phase_a_auc = 0.7" in result.output
    assert files_of(root) - {root / "metrics/eval_a.json"} == before
    assert query(root, "SELECT * FROM runs") == []


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        (None, "gate_a.json does not exist"),
        ("", "gate_a.json cannot be read"),
        ("[1]", "gate_a.json is not a JSON object"),
        ('{"passed": "yes", "threshold": 0.7}', "gate_a.json has no verdict"),
        ('{"passed": true}', "gate_a.json has no verdict"),
        ('{"passed": true, "threshold": 0.6}', "phase_b.min_phase_a_auc = 0.6, which is now 0.7"),
    ],
)
def test_without_a_valid_gate_it_does_not_start(
    train: Train, root: Path, gate: str | None, expected: str
) -> None:
    (root / "metrics/gate_a.json").unlink()
    if gate is not None:
        (root / "metrics/gate_a.json").write_text(gate)
    result = train()
    assert result.exit_code == 1
    assert expected in result.output
    assert "run `dvc repro eval_a` to write it" in result.output
    assert "Traceback" not in result.output


def test_evaluation_figures_other_than_the_verdict_change_nothing(train: Train, root: Path) -> None:
    hashes = []
    for auc in (0.71, 0.99):
        write_report(root, auc)
        assert train("--epochs", "1").exit_code == 0
        hashes.append([digest(root / name) for name in OUTPUTS[:2]])
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("content", [None, b"", b"no checkpoint"])
def test_without_phase_as_weights_it_does_not_start(train: Train, root: Path, content: bytes | None) -> None:
    (root / START).unlink()
    if content is not None:
        (root / START).write_bytes(content)
    result = train()
    assert result.exit_code == 1
    assert "phase_a.safetensors" in result.output
    assert not (root / OUTPUTS[0]).exists()


def test_a_dry_run_ignores_the_gate_and_touches_nothing(train: Train, root: Path) -> None:
    write_gate(root, passed=False)
    before = {path: path.read_bytes() for path in files_of(root)}
    result = train("--dry-run", phase_b={"epochs": 50})
    assert result.exit_code == 0, result.output
    assert "without a check of metrics/gate_a.json" in result.output
    assert f"starting from {START}" in result.output
    assert " 2/2 " in result.output
    assert {path: path.read_bytes() for path in files_of(root)} == before
    assert query(root, "SELECT * FROM runs") == []


def test_a_dry_run_without_phase_a_starts_from_scratch(
    train: Train, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / START).unlink()
    loaded = Mock()
    monkeypatch.setattr("stf.training.run.read_checkpoint", loaded)
    result = train("--dry-run")
    assert result.exit_code == 0, result.output
    assert f"{START} does not exist, so the network starts from scratch" in result.output
    loaded.assert_not_called()


def test_a_state_is_not_resumed_after_phase_a_changed(train: Train, root: Path) -> None:
    assert train().exit_code == 0
    [state] = (root / "checkpoints").glob("*/last.pt")
    result = train("--resume", str(state))
    assert "this training has already finished; its outputs are written from" in result.output
    write_start(root, seed=1)
    result = train("--resume", str(state))
    assert result.exit_code == 0, result.output
    assert "the state of another config_hash: starting at epoch 1" in result.output
    assert len(list((root / "checkpoints").glob("*/last.pt"))) == 2
    write_start(root, seed=2)
    assert "starting at epoch 1" in train().output


@pytest.fixture
def expensive(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Parameters for runs whose clock passes 100 s, $0.10 at $3.60 an hour, at every look."""
    seconds = itertools.count(step=100.0)
    slow = functools.partial(BudgetTracker, clock=lambda: next(seconds))
    monkeypatch.setattr("stf.training.budget.BudgetTracker", slow)
    monkeypatch.setattr("stf.training.budget.process_age_s", lambda: 0.0)  # pytest's
    monkeypatch.setattr("stf.training.budget_tracker.BEAT_S", 99.0)  # the heartbeat looks at the clock too
    return {"runtime": {"billing": True}, "budget": {"cost_per_hour": 3.6}}


def test_both_phases_of_a_plan_share_its_budget(train: Train, root: Path, expensive: dict[str, Any]) -> None:
    expensive["phase_a"] = {"epochs": 1}
    first = run_training(train_a, **expensive)
    assert first.exit_code == 0, first.output
    [ledger] = (root / "checkpoints").glob("*/ledger/a")
    spent_a = ledger_usd(ledger)
    assert 0.5 < spent_a < 4.4
    result = train(phase_b={"epochs": 40}, **expensive)
    assert result.exit_code == 0, result.output
    assert "the budget stopped training" in result.output
    summary = json.loads((root / OUTPUTS[1]).read_text())
    assert summary["b_stopped_by_budget"]
    [ledger_b] = ledger.parent.glob("b_*")
    assert 4.5 <= spent_a + ledger_usd(ledger_b) < 5.5  # 90 % of $5, and a few more looks at the clock

    before = {name: digest(root / name) for name in OUTPUTS}
    states = {path: digest(path) for path in (root / "checkpoints").glob("*/*.pt")}
    again = train("--fresh", phase_b={"epochs": 40}, **expensive)
    assert again.exit_code == 1
    assert "no budget is left: earlier runs of this plan spent $" in again.output
    assert "of $5.00" in again.output
    assert {name: digest(root / name) for name in OUTPUTS} == before
    refused = run_training(train_a, "--fresh", **expensive)  # phase A shares the budget
    assert "no budget is left" in refused.output
    refused = run_training(train_a, "--epochs", "2", **expensive)  # with an option too
    assert "no budget is left" in refused.output
    assert {path: digest(path) for path in states} == states
    (root / OUTPUTS[0]).unlink()
    finished = run_training(train_a, **expensive)  # what costs nothing gets its outputs
    assert "this training has already finished" in finished.output
    assert finished.exit_code == 0
    assert train(phase_b={"epochs": 40}, **expensive).exit_code == 0
    assert json.loads((root / OUTPUTS[1]).read_text())["b_stopped_by_budget"]

    ablation = train(phase_b={"epochs": 1, "use_contrastive_hll": False}, **expensive)
    assert ablation.exit_code == 0, ablation.output
    assert len(list(ledger.parent.glob("b_*"))) == 2


def test_a_closed_gate_reports_the_remaining_budget(train: Train, root: Path) -> None:
    write_gate(root, passed=False)
    write_report(root, 0.5)
    result = train(runtime={"billing": True}, budget={"max_budget": 10.0})
    assert "The plan has spent $0.00 of $10.00, with $9.00 left before training stops." in result.output


def test_an_option_of_phase_b_does_not_open_another_plan(
    train: Train, root: Path, expensive: dict[str, Any]
) -> None:
    assert train("--epochs", "1", "--batch-size", "2", **expensive).exit_code == 0
    assert train("--epochs", "1", **expensive).exit_code == 0
    assert len({path.parent for path in (root / "checkpoints").glob("*/ledger")}) == 1
