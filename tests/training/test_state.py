"""What a checkpoint folder remembers, and that a resumed run ends where an uninterrupted one does."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stf.config import BudgetParams, DataParams, Params, PhaseAParams, PhaseBParams, RuntimeParams, SbiParams
from stf.errors import CheckpointError, TrainingError
from stf.models.weights import load_model, read_checkpoint
from stf.training.learner import Learner
from stf.training.state import Best, Progress, config_hash

MakeRun = Callable[..., Any]
TIMES = ("epoch_time", "cost_usd", "timestamp")
RANDOM = {"dropout": 0.3, "drop_path": 0.2, "grad_accum": 2, "ema_decay": 0.5}


def weights_of(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in learner.model.state_dict().items()}


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"data": DataParams(quality="raw")},
        {"sbi": SbiParams(tps_probability=0.1)},
        {"phase_a": PhaseAParams(epochs=3), "phase_b": PhaseBParams(epochs=3)},
        {
            "phase_a": PhaseAParams(use_multiscale_drift=False),
            "phase_b": PhaseBParams(use_multiscale_drift=False),
        },
    ],
)
def test_what_changes_training_changes_the_hash(change: dict[str, Any]) -> None:
    assert config_hash(replace(Params(), **change), "a") != config_hash(Params(), "a")
    assert config_hash(replace(Params(), **change), "b") != config_hash(Params(), "b")


@pytest.mark.parametrize(
    "change", [{"runtime": RuntimeParams(num_workers=0)}, {"budget": BudgetParams(max_budget=9.0)}]
)
def test_what_changes_no_step_keeps_the_hash(change: dict[str, Any]) -> None:
    assert config_hash(replace(Params(), **change), "a") == config_hash(Params(), "a")


def test_phase_b_has_its_own_hash_and_leaves_phase_as_alone() -> None:
    other = replace(Params(), phase_b=PhaseBParams(epochs=3))
    assert config_hash(other, "a") == config_hash(Params(), "a")
    assert len({config_hash(other, "b"), config_hash(Params(), "b"), config_hash(Params(), "a")}) == 3


def test_phase_b_is_another_run_from_other_weights_and_the_same_behind_another_gate() -> None:
    first, second = (config_hash(Params(), "b", digest) for digest in ("f00", "f01"))
    assert first != second
    lower = replace(Params(), phase_b=PhaseBParams(min_phase_a_auc=0.6))
    assert config_hash(lower, "b", "f00") == first


def test_best_is_by_auc_then_loss_then_the_earlier_epoch() -> None:
    kept = Best(3, 0.8, 0.5, {})
    assert kept.beats(None)
    assert Best(4, 0.81, 0.9, {}).beats(kept)
    assert Best(4, 0.80, 0.4, {}).beats(kept)
    assert not Best(4, 0.80, 0.5, {}).beats(kept)
    assert not Best(4, 0.79, 0.1, {}).beats(kept)


def test_a_folder_has_one_trainer_at_a_time(make_run: MakeRun) -> None:
    folder = make_run().folder
    with (
        folder.locked(),
        pytest.raises(TrainingError, match="another process is training this configuration"),
        folder.locked(),
    ):
        pass
    with folder.locked():
        pass


def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(make_run: MakeRun, tmp_path: Path) -> None:
    whole = make_run("whole", epochs=3, n_batches=3, **RANDOM)
    wanted = whole.fit()
    cut = make_run("cut", epochs=3, n_batches=3, **RANDOM)
    plan, cut.plan = cut.plan, replace(cut.plan, epochs=1)  # the schedule is that of three epochs
    cut.fit()
    moved = shutil.copy(cut.folder.path / "last.pt", tmp_path / "moved.pt")

    resumed = make_run("resumed", epochs=3, n_batches=3, seed=5, **RANDOM)
    resumed.plan = plan
    torch.manual_seed(99)
    progress, told = resumed.folder.resume(moved, resumed.learner)
    assert "after epoch 1" in told
    assert read_checkpoint(resumed.folder.path / "best.pt")["epoch"] == 1  # no folder is without its best
    got = resumed.fit(progress)

    assert [s.global_step for s in resumed.steps] == [3, 4, 5, 6]
    for name, value in whole.learner.model.state_dict().items():
        assert torch.equal(value, resumed.learner.model.state_dict()[name]), name
    for a, b in zip(whole.learner.loss.parameters(), resumed.learner.loss.parameters(), strict=True):
        assert torch.equal(a, b)
    for name, value in whole.learner.judged.state_dict().items():
        assert torch.equal(value, resumed.learner.judged.state_dict()[name]), name
    same = [[replace(r, **dict.fromkeys(TIMES, 0)) for r in end.history] for end in (wanted, got)]
    assert same[0] == same[1]
    assert (whole.folder.path / "best.pt").read_bytes() == (resumed.folder.path / "best.pt").read_bytes()


def test_state_of_other_data_gives_its_weights_only(make_run: MakeRun) -> None:
    first, second = (
        make_run("first", epochs=1),
        make_run("second", fingerprint="other", seed=5, ema_decay=0.9),
    )
    first.fit()
    progress, told = second.folder.resume(first.folder.path / "last.pt", second.learner)
    assert progress == Progress()
    assert "another fingerprint" in told
    assert "from its weights" in told
    for name, value in weights_of(first.learner).items():
        assert torch.equal(value, second.learner.model.state_dict()[name])
        assert torch.equal(value, second.learner.judged.state_dict()[name])


def test_weights_alone_are_a_start(make_run: MakeRun) -> None:
    first, second = make_run("first", epochs=1), make_run("second", seed=5)
    first.fit()
    progress, told = second.folder.resume(first.folder.path / "best.pt", second.learner)
    assert progress == Progress()
    assert "weights alone" in told
    second.fit(progress)
    assert [step.global_step for step in second.steps] == [1, 2, 3, 4]


def test_last_pt_is_a_checkpoint_like_any_other(make_run: MakeRun) -> None:
    run = make_run(epochs=1)
    run.fit()
    network, _, epoch = load_model(run.folder.path / "last.pt")
    assert epoch == 1
    for name, value in weights_of(run.learner).items():
        assert torch.equal(value, network.state_dict()[name])


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda _: b"", lambda _: b"not a checkpoint"])
def test_a_damaged_file_is_named(make_run: MakeRun, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    run = make_run(epochs=1)
    run.fit()
    broken = tmp_path / "broken.pt"
    broken.write_bytes(damage((run.folder.path / "last.pt").read_bytes()))
    with pytest.raises(CheckpointError, match=r"broken\.pt"):
        run.folder.resume(broken, run.learner)


def test_a_state_without_its_parts_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(epochs=1)
    run.fit()
    payload = torch.load(run.folder.path / "last.pt", weights_only=True)
    del payload["optimizer"]
    torch.save(payload, tmp_path / "partial.pt")
    with pytest.raises(CheckpointError, match=r"partial\.pt.*optimizer"):
        run.folder.resume(tmp_path / "partial.pt", run.learner)
