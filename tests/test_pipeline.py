"""From phase A's training to phase B's evaluation on a tiny tree: each command reads what the previous one wrote."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from pipeline.eval_a import main as eval_a
from pipeline.eval_b import main as eval_b
from pipeline.train_phase_a import main as train_phase_a
from pipeline.train_phase_b import main as train_phase_b
from tests.reference.training_commands import digest, query, run_training

STAGES = yaml.safe_load((Path(__file__).parents[1] / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
COMMANDS = {
    "train_phase_a": train_phase_a,
    "eval_a": eval_a,
    "train_phase_b": train_phase_b,
    "eval_b": eval_b,
}


def outs_of(stage: str) -> set[str]:
    """What dvc.yaml says that a stage writes."""
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in STAGES[stage].get(kind, [])]
    return {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}


def files_below(root: Path) -> set[str]:
    """All files of the pipeline's own, without logs, which git ignores, and the state of runs."""
    paths = {
        path.relative_to(root).as_posix()
        for folder in ("metrics", "weights")
        for path in (root / folder).rglob("*.*")
    }
    return {name for name in paths if not name.endswith("_log.csv")}


def require_flat_metrics(root: Path) -> None:
    """Every metrics file is flat, and no key is in two of them, so that `dvc exp show` has a column for each."""
    keys: list[str] = []
    for stage in COMMANDS:
        for entry in STAGES[stage]["metrics"]:
            values = json.loads((root / next(iter(entry))).read_text())
            assert not [value for value in values.values() if isinstance(value, dict | list)], entry
            keys += values
    assert len(keys) == len(set(keys))
    assert {key for key in keys if not key.startswith(("a_", "b_"))} == {"passed", "threshold"}


def test_the_pipeline_runs_and_every_run_has_its_parent(training_root: Path) -> None:
    small = {"evaluation": {"clips_per_video": 1, "bootstrap_samples": 200}}
    for stage, command in COMMANDS.items():
        before = files_below(training_root)
        result = run_training(command, phase_b={"min_phase_a_auc": 0.0}, **small)
        assert result.exit_code == 0, result.output
        assert files_below(training_root) - before == outs_of(stage)

    runs = dict(query(training_root, "SELECT value, run_uuid FROM tags WHERE key = 'stage'"))
    tags = {
        stage: dict(query(training_root, f"SELECT key, value FROM tags WHERE run_uuid = '{run}'"))
        for stage, run in runs.items()
    }
    assert tags["train_phase_b"]["starting_run_id"] == runs["train_phase_a"]
    for phase in "ab":
        assert tags[f"eval_{phase}"]["mlflow.parentRunId"] == runs[f"train_phase_{phase}"]
        document = json.loads((training_root / f"metrics/eval_{phase}_details.json").read_text())
        assert document["checkpoint"]["weights_sha256"] == digest(
            training_root / f"weights/phase_{phase}.safetensors"
        )
    assert [tags[stage]["variant"] for stage in COMMANDS] == ["A", "A", "B", "B"]

    require_flat_metrics(training_root)

    closed = {"phase_b": {"min_phase_a_auc": 1.0}} | small
    assert run_training(eval_a, **closed).exit_code == 0
    figures = json.loads((training_root / "metrics/eval_a.json").read_text())
    auc = figures["a_auc_overall"]
    before = digest(training_root / "weights/phase_b.safetensors")
    refused = run_training(train_phase_b, **closed)
    assert refused.exit_code == 1
    assert f"real deepfakes, {auc:.4f}, is not above phase_b.min_phase_a_auc = 1 " in refused.output
    assert digest(training_root / "weights/phase_b.safetensors") == before
