"""The loop: what it records and keeps, that it repeats itself bit for bit, how budget and NaN end it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from stf.errors import DataError, TrainingError
from stf.models.checkpoint import read_checkpoint
from stf.tracking.loggers import CSV_COLUMNS
from stf.training.progress import Progress
from stf.training.records import EpochRecord
from stf.training.step import Batch

MakeRun = Callable[..., Any]
TIMES = ("epoch_time", "cost_usd", "timestamp")


def test_an_epoch_record_has_exactly_the_columns_of_the_csv() -> None:
    assert tuple(field.name for field in fields(EpochRecord)) == CSV_COLUMNS


def test_every_step_and_epoch_is_reported_in_order(make_run: MakeRun) -> None:
    run = make_run(epochs=2, n_batches=3, grad_accum=2)
    progress = run.fit()
    assert [(s.epoch, s.step, s.global_step) for s in run.steps] == [
        (1, 1, 1),
        (1, 2, 2),
        (2, 1, 3),
        (2, 2, 4),
    ]
    assert [s.clips for s in run.steps] == [8, 4, 8, 4]
    assert run.train.epochs == [0, 1]
    assert [record.epoch for record, _ in run.epochs] == [1, 2]
    assert progress.history == [record for record, _ in run.epochs]
    assert (progress.epoch, progress.global_step, progress.stopped_by_budget) == (2, 4, False)


def test_an_epochs_figures_are_means_over_clips(make_run: MakeRun) -> None:
    run = make_run(epochs=1, n_batches=3, grad_accum=2)
    run.fit()
    (record, details), steps = run.epochs[0], run.steps
    assert record.train_loss == pytest.approx((8 * steps[0].loss + 4 * steps[1].loss) / 12)
    assert record.ce_loss == pytest.approx((8 * steps[0].ce + 4 * steps[1].ce) / 12)
    assert record.train_acc == pytest.approx((steps[0].correct + steps[1].correct) / 12)
    assert details.e_fake == pytest.approx((8 * steps[0].e_fake + 4 * steps[1].e_fake) / 12)
    assert record.lr == steps[-1].lr
    assert details.complete
    assert details.clips_per_s > 0
    assert record.epoch_time >= details.data_s + details.step_s + details.validation_s


def test_the_rates_are_those_of_the_schedule(make_run: MakeRun) -> None:
    run = make_run(epochs=3, n_batches=2, lr=1e-3, warmup_epochs=1)
    run.fit()
    rates = [step.lr for step in run.steps]
    assert rates[0] == pytest.approx(0.5e-3)
    assert rates[2] == pytest.approx(1e-3)
    assert rates[2] > rates[3] > rates[4] > rates[5]
    assert all(step.backbone_lr == pytest.approx(0.1 * step.lr) for step in run.steps)


def test_two_runs_end_with_the_same_bits(make_run: MakeRun) -> None:
    runs, ends = [], []
    for name in ("first", "second"):
        runs.append(make_run(name, dropout=0.3, drop_path=0.2, ema_decay=0.5))
        ends.append(runs[-1].fit())
    for a, b in zip(*(run.train_state.model.state_dict().values() for run in runs), strict=True):
        assert torch.equal(a, b)
    assert (runs[0].folder.path / "best.safetensors").read_bytes() == (
        runs[1].folder.path / "best.safetensors"
    ).read_bytes()
    same = [[replace(r, **dict.fromkeys(TIMES, 0)) for r in end.history] for end in ends]
    assert same[0] == same[1]


def test_the_best_epochs_weights_are_saved_not_the_last_ones(make_run: MakeRun) -> None:
    run = make_run(epochs=1, lr=1e-3)
    progress = run.fit()
    best = {name: value.clone() for name, value in run.train_state.model.state_dict().items()}
    # every later epoch is worse by construction
    progress.best = replace(progress.best, val_auc=2.0)
    run.plan = replace(run.plan, epochs=2)
    after = run.fit(progress)
    assert after.best is not None
    assert after.best.epoch == 1
    checkpoint = read_checkpoint(run.folder.path / "best.safetensors")
    saved, epoch = checkpoint.build(), checkpoint.epoch
    assert epoch == 1
    assert all(torch.equal(best[name], value) for name, value in saved.state_dict().items())
    assert any(not torch.equal(best[n], v) for n, v in run.train_state.model.state_dict().items())
    assert after.history[-1].best_auc == 2.0


def test_the_moving_average_is_what_is_saved(make_run: MakeRun) -> None:
    run = make_run(epochs=1, ema_decay=0.9)
    run.fit()
    saved = read_checkpoint(run.folder.path / "best.safetensors").build()
    average = run.train_state.evaluation_model.state_dict()
    assert all(torch.equal(average[name], value) for name, value in saved.state_dict().items())
    assert any(not torch.equal(average[n], v) for n, v in run.train_state.model.state_dict().items())


def test_the_best_weights_file_holds_weights_settings_and_epoch_only(make_run: MakeRun) -> None:
    run = make_run(epochs=1)
    run.fit()
    assert set(read_checkpoint(run.folder.path / "best.safetensors").payload) == {
        "format",
        "config",
        "crop",
        "epoch",
        "model",
        "ssm_backend",
    }


def test_a_spent_budget_ends_the_epoch_early_with_a_validated_checkpoint(make_run: MakeRun) -> None:
    run = make_run(epochs=5, n_batches=4, max_usd=1.5)  # used up after the second step of the first epoch
    progress = run.fit()
    assert progress.stopped_by_budget
    assert len(run.steps) == 2
    assert (progress.epoch, len(progress.history)) == (1, 1)
    assert not run.epochs[0][1].complete
    assert progress.best is not None
    assert read_checkpoint(run.folder.path / "best.safetensors").epoch == 1
    # of before the validation: with more money the run is resumed from there
    state = read_checkpoint(run.folder.path / "last.pt").payload
    assert (state["epoch"], state["extra"]["means"]["steps"], state["extra"]["best"]) == (0, 2, None)


def test_a_budget_that_ends_with_an_epoch_leaves_a_whole_one(make_run: MakeRun) -> None:
    run = make_run(epochs=5, n_batches=2, max_usd=1.5)
    progress = run.fit()
    assert progress.stopped_by_budget
    assert run.epochs[0][1].complete
    assert (run.folder.path / "last.pt").exists()
    assert len(progress.history) == 1


def test_nan_leaves_the_checkpoints_of_earlier_epochs_as_they_were(make_run: MakeRun) -> None:
    run = make_run(epochs=1)
    progress = run.fit()
    before = {name: (run.folder.path / name).read_bytes() for name in ("best.safetensors", "last.pt")}
    sound = run.train.make_batch

    def with_nan(n_pairs: int, seed: int) -> dict[str, Any]:
        batch = sound(n_pairs, seed=seed)
        batch.video[:, :, 0] = float("nan") if seed == 101 else batch.video[:, :, 0]
        return batch

    run.train.make_batch = with_nan
    run.plan = replace(run.plan, epochs=2)
    with pytest.raises(TrainingError, match=r"loss became nan at epoch 2, step 2.*101-0 from frame 0, seed"):
        run.fit(progress)
    assert {name: (run.folder.path / name).read_bytes() for name in before} == before
    assert len(run.epochs) == 1


def test_failed_draws_of_validation_end_training_too(
    make_run: MakeRun, make_batch: Callable[..., Batch]
) -> None:
    run = make_run(epochs=1)
    run.val = [make_batch(4, failures=("empty mask",)), make_batch(4, seed=1)]
    run.plan = replace(run.plan, max_failure_share=0.4)
    with pytest.raises(DataError, match=r"4 of the 8 pairs of validation in epoch 1 .*4 × empty mask"):
        run.fit()
    assert not list(run.folder.path.glob("*.pt"))
    run.plan = replace(run.plan, max_failure_share=0.5)
    assert run.fit().epoch == 1


def test_a_finished_run_trains_no_further(make_run: MakeRun) -> None:
    run = make_run(epochs=1)
    progress = run.fit()
    assert run.fit(progress) is progress
    assert len(run.epochs) == 1


def test_an_empty_state_starts_at_the_beginning() -> None:
    assert Progress() == Progress.from_dict(0, Progress().as_dict())
