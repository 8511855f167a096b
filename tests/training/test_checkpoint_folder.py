"""What a checkpoint folder holds, and that a resumed run ends where an uninterrupted one does."""

from __future__ import annotations

import copy
import errno
import json
import os
import resource
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from stf.config import BudgetParams, DataParams, Params, PhaseAParams, PhaseBParams, RuntimeParams, SbiParams
from stf.errors import CheckpointError, Interrupted, TrainingError
from stf.models.checkpoint import read_checkpoint
from stf.training.identity import Origin, config_hash
from stf.training.progress import Best, Progress
from stf.training.train_state import TrainState

MakeRun = Callable[..., Any]
ORIGIN = Origin(config_hash="config", fingerprint="data", code="code")
TIMES = ("epoch_time", "cost_usd", "timestamp")
RANDOM = {"dropout": 0.3, "drop_path": 0.2, "grad_accum": 2, "ema_decay": 0.5}


def weights_of(train_state: TrainState) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in train_state.model.state_dict().items()}


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
def test_parameters_that_change_training_change_the_hash(change: dict[str, Any]) -> None:
    assert config_hash(replace(Params(), **change), "a") != config_hash(Params(), "a")
    assert config_hash(replace(Params(), **change), "b") != config_hash(Params(), "b")


def test_every_parameter_that_training_depends_on_changes_the_hash() -> None:
    """All of params.yaml but what is named here; else a run would be resumed from the state of other parameters."""
    of_other_stages = {"audit", "evaluation", "budget", "runtime"}
    no_step = {"data.max_failure_share", "phase_b.min_phase_a_auc"}
    same = set()
    for key in Params().flat():
        section, _, name = key.partition(".")
        if section in of_other_stages:
            continue
        other, phase = copy.deepcopy(Params()), "b" if section == "phase_b" else "a"
        owner, field = (getattr(other, section), name) if name else (other, key)
        object.__setattr__(owner, field, f"not {getattr(owner, field)}")  # past all checks
        if config_hash(other, phase) == config_hash(Params(), phase):
            same.add(key)
    assert same == no_step


@pytest.mark.parametrize(
    "change", [{"runtime": RuntimeParams(num_workers=0)}, {"budget": BudgetParams(max_budget=9.0)}]
)
def test_parameters_that_change_no_step_keep_the_hash(change: dict[str, Any]) -> None:
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
    best = Best(3, 0.8, 0.5, {})
    assert best.beats(None)
    assert Best(4, 0.81, 0.9, {}).beats(best)
    assert Best(4, 0.80, 0.4, {}).beats(best)
    assert not Best(4, 0.80, 0.5, {}).beats(best)
    assert not Best(4, 0.79, 0.1, {}).beats(best)


def test_a_folder_has_one_trainer_at_a_time(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run().folder
    monkeypatch.setattr("stf.training.lock.LOCK_WAIT_S", 0.2)
    messages: list[str] = []
    with (
        folder.locked(),
        pytest.raises(TrainingError, match=f"another process.*process {os.getpid()} on .*holds"),
        folder.locked(messages.append),
    ):
        pass
    assert f"waiting up to 0 s for process {os.getpid()} on" in messages[0]
    with folder.locked():
        pass


def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(make_run: MakeRun, tmp_path: Path) -> None:
    whole = make_run("whole", epochs=3, n_batches=3, **RANDOM)
    expected = whole.fit()
    cut = make_run("cut", epochs=3, n_batches=3, **RANDOM)
    plan, cut.plan = cut.plan, replace(cut.plan, epochs=1)  # the schedule is that of three epochs
    cut.fit()
    moved = shutil.copy(cut.folder.path / "last.pt", tmp_path / "moved.pt")

    resumed = make_run("resumed", epochs=3, n_batches=3, seed=5, **RANDOM)
    resumed.plan = plan
    torch.manual_seed(99)
    _, progress, note = resumed.folder.resume(read_checkpoint(moved), resumed.train_state)
    assert (note, progress.place(2)) == ("", "after epoch 1")
    assert (
        read_checkpoint(resumed.folder.path / "best.safetensors").epoch == 1
    )  # no folder is without its best
    got = resumed.fit(progress)

    assert [s.global_step for s in resumed.steps] == [3, 4, 5, 6]
    for name, value in whole.train_state.model.state_dict().items():
        assert torch.equal(value, resumed.train_state.model.state_dict()[name]), name
    for a, b in zip(whole.train_state.loss.parameters(), resumed.train_state.loss.parameters(), strict=True):
        assert torch.equal(a, b)
    for name, value in whole.train_state.evaluation_model.state_dict().items():
        assert torch.equal(value, resumed.train_state.evaluation_model.state_dict()[name]), name
    same = [[replace(r, **dict.fromkeys(TIMES, 0)) for r in end.history] for end in (expected, got)]
    assert same[0] == same[1]
    assert (whole.folder.path / "best.safetensors").read_bytes() == (
        resumed.folder.path / "best.safetensors"
    ).read_bytes()


def run_in_pieces(make_run: MakeRun, stop_after: Sequence[int], **fields: Any) -> Any:
    """A run that is asked to stop after each of these global steps, and resumed with a new train_state each time."""
    for piece, last in enumerate((*stop_after, None)):
        run = make_run("pieces", seed=piece, **fields)  # first weights and dropout of each piece are others
        (state, _), progress = run.folder.find(), Progress()
        if state is not None:
            progress, _ = run.folder.restore(state, run.train_state)
        if last is None:
            return run, run.fit(progress)
        run.stop_request = stop_when(progress, last)
        with pytest.raises(Interrupted):
            run.fit(progress)
    raise AssertionError


def stop_when(progress: Progress, step: int) -> Callable[[], Interrupted | None]:
    """Asks to stop as soon as the run has taken this many optimizer steps."""
    return lambda: Interrupted("enough", 143) if progress.global_step >= step else None


@pytest.mark.parametrize("stop_after", [(1, 2, 3, 4, 5), (2, 2, 6)])
def test_a_run_in_pieces_ends_with_the_bits_of_a_whole_one(
    make_run: MakeRun, stop_after: tuple[int, ...]
) -> None:
    """Cut after any step, the last of an epoch (before its validation) and the very last included."""
    fields = {"epochs": 3, "n_batches": 3, **RANDOM}
    whole = make_run("whole", **fields)
    expected = whole.fit()
    run, got = run_in_pieces(make_run, stop_after, **fields)
    assert (got.epoch, got.global_step) == (3, 6)
    for name, value in weights_of(whole.train_state).items():
        assert torch.equal(value, run.train_state.model.state_dict()[name]), name
    for name in ("best.safetensors", "last.pt"):
        states = [untimed(read_checkpoint(each.folder.path / name).payload) for each in (whole, run)]
        assert_same(*states)
    assert [untimed_record(r) for r in got.history] == [untimed_record(r) for r in expected.history]


def untimed(payload: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint without what the clock wrote into it."""
    extra = payload.get("extra")
    if extra is not None:
        extra.pop("epoch_s")
        extra["history"] = [{k: v for k, v in row.items() if k not in TIMES} for row in extra["history"]]
    return payload


def untimed_record(record: Any) -> Any:
    return replace(record, **dict.fromkeys(TIMES, 0))


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Bit for bit, whatever is in the containers."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f"{where}[{i}]")
    else:
        assert a == b, where


def test_the_state_is_saved_within_an_epoch_too(make_run: MakeRun) -> None:
    run = make_run(epochs=1, n_batches=3)
    run.plan = replace(run.plan, save_every_s=0.0)
    existed = []
    run.train.make_batch, make = (
        lambda *args, **options: (
            existed.append((run.folder.path / "last.pt").exists()),
            make(*args, **options),
        )[1],
        run.train.make_batch,
    )
    run.fit()
    assert existed == [False, True, True]
    before = read_checkpoint(run.folder.path / "previous.pt").payload
    assert (before["epoch"], before["extra"]["means"]["steps"]) == (0, 3)
    assert read_checkpoint(run.folder.path / "last.pt").epoch == 1


def test_a_damaged_state_is_reported_and_the_previous_one_is_used(make_run: MakeRun) -> None:
    run = make_run(epochs=2)
    run.fit()
    last = run.folder.path / "last.pt"
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1  # a single bit, which torch itself would not notice
    last.write_bytes(data)
    state, messages = run.folder.find()
    assert state.path == run.folder.path / "previous.pt"
    assert state.epoch == 1
    assert str(last) in messages[0]
    assert "checksum" in messages[0]
    assert (run.folder.path / "damaged.pt").read_bytes() == data  # never in the place of an undamaged one
    assert not last.exists()


def test_if_every_state_is_damaged_the_error_gives_the_next_step(make_run: MakeRun) -> None:
    run = make_run(epochs=2)
    run.fit()
    for name in ("last.pt", "previous.pt"):
        path = run.folder.path / name
        path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"last\.pt.*previous\.pt.*--fresh"):
        run.folder.find()


@pytest.mark.parametrize("other", ["fingerprint", "code"])
def test_a_state_of_other_data_or_code_is_moved_aside(make_run: MakeRun, other: str) -> None:
    run = make_run(epochs=2)
    run.fit()
    saved = (run.folder.path / "last.pt").read_bytes()
    folder = make_run(origin=replace(ORIGIN, **{other: "other"})).folder
    state, messages = folder.find()
    assert state is None
    assert "moved to" in messages[0]
    assert (folder.path / "other.pt").read_bytes() == saved
    assert folder.find() == (None, [])
    assert not {"last.pt", "previous.pt"} & {path.name for path in folder.path.iterdir()}


def test_what_is_moved_aside_is_never_overwritten_and_moved_back_for_its_own_run(make_run: MakeRun) -> None:
    mine = make_run(epochs=2)
    mine.fit()
    expected = (mine.folder.path / "last.pt").read_bytes()
    for code in ("second", "third"):
        other = make_run(epochs=1, origin=replace(ORIGIN, code=code))
        assert other.folder.find()[0] is None
        other.fit()
    assert (mine.folder.path / "other.pt").read_bytes() == expected
    assert (mine.folder.path / "other-2.pt").exists()
    state, messages = make_run().folder.find()
    assert state.path == mine.folder.path / "last.pt"
    assert state.path.read_bytes() == expected
    assert "moved to" in messages[0]
    assert "again" in messages[1]
    for name in ("before_fresh.pt", "before_fresh-2.pt"):
        assert name in mine.folder.move_aside("is not resumed", "before_fresh")
        assert (mine.folder.path / name).exists()
        shutil.copy(mine.folder.path / name, mine.folder.path / "last.pt")


@pytest.mark.parametrize("how", ["other code", "--fresh"])
def test_the_undamaged_state_is_moved_aside_not_the_damaged_one(make_run: MakeRun, how: str) -> None:
    run = make_run(epochs=2)
    run.fit()
    last, previous = run.folder.path / "last.pt", run.folder.path / "previous.pt"
    undamaged = previous.read_bytes()
    last.write_bytes(last.read_bytes()[:-1000])
    if how == "--fresh":
        run.folder.move_aside("is not resumed", "other")
    else:
        assert make_run(origin=replace(ORIGIN, code="other")).folder.find()[0] is None
    assert (run.folder.path / "other.pt").read_bytes() == undamaged
    assert (run.folder.path / "damaged.pt").exists()


def test_a_state_of_other_code_is_resumed_on_request(make_run: MakeRun) -> None:
    run = make_run(epochs=2)
    run.fit()
    folder = make_run(origin=replace(ORIGIN, code="other")).folder
    _, progress, note = folder.resume(read_checkpoint(run.folder.path / "last.pt"), run.train_state)
    assert progress.epoch == 2
    assert "other code" in note


def test_another_number_of_threads_is_reported(make_run: MakeRun) -> None:
    run = make_run(epochs=1)
    run.fit()
    state, _ = run.folder.find()
    state.payload["extra"]["setting"]["threads"] = 7
    _, note = run.folder.restore(state, run.train_state)
    assert "threads 7 then, 1 now" in note


def test_a_full_disk_leaves_the_last_good_state(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(epochs=2)
    run.fit()
    before = {path.name: path.read_bytes() for path in run.folder.path.iterdir()}
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, "fsync", mock.Mock(side_effect=full))
    with pytest.raises(
        CheckpointError, match=r"last\.pt cannot be written: No space left on device.*untouched"
    ):
        run.folder.keep_last(run.train_state, Progress())
    assert {path.name: path.read_bytes() for path in run.folder.path.iterdir()} == before


def test_partial_files_of_a_killed_run_are_removed(make_run: MakeRun) -> None:
    run = make_run(epochs=1)
    run.folder.path.mkdir()
    left_over = run.folder.path / ".last.pt.abc.part"
    left_over.write_bytes(b"half")
    (run.folder.path / ".last.pt").write_bytes(b"somebody's own")
    with run.folder.locked():
        assert not left_over.exists()
        assert (run.folder.path / ".last.pt").exists()
        assert json.loads((run.folder.path / "trainer.json").read_text())["pid"] == os.getpid()


def test_a_state_of_other_data_provides_only_its_weights(make_run: MakeRun) -> None:
    first, second = (
        make_run("first", epochs=1),
        make_run("second", origin=replace(ORIGIN, fingerprint="other"), seed=5, ema_decay=0.9),
    )
    first.fit()
    _, progress, message = second.folder.resume(
        read_checkpoint(first.folder.path / "last.pt"), second.train_state
    )
    assert progress == Progress()
    assert "another fingerprint" in message
    assert "from its weights" in message
    for name, value in weights_of(first.train_state).items():
        assert torch.equal(value, second.train_state.model.state_dict()[name])
        assert torch.equal(value, second.train_state.evaluation_model.state_dict()[name])


def test_training_can_start_from_weights_alone(make_run: MakeRun) -> None:
    first, second = make_run("first", epochs=1), make_run("second", seed=5)
    first.fit()
    _, progress, message = second.folder.resume(
        read_checkpoint(first.folder.path / "best.safetensors"), second.train_state
    )
    assert progress == Progress()
    assert "weights alone" in message
    second.fit(progress)
    assert [step.global_step for step in second.steps] == [1, 2, 3, 4]


def test_a_run_started_from_weights_is_another_run(make_run: MakeRun, tmp_path: Path) -> None:
    first = make_run("first", epochs=1)
    first.fit()
    weights = shutil.copy(first.folder.path / "best.safetensors", tmp_path / "weights.safetensors")
    trial = make_run("first", epochs=2, seed=5)
    identity = trial.folder.identity
    _, progress, _ = trial.folder.resume(read_checkpoint(weights), trial.train_state)
    assert trial.folder.identity != identity
    assert trial.folder.starts_from_weights
    assert (trial.folder.path / "other.pt").exists()  # the state of the run without
    trial.fit(progress)
    again = make_run("first", epochs=2, seed=6)
    used, progress, _ = again.folder.resume(read_checkpoint(weights), again.train_state)
    assert (used, progress.epoch) == (trial.folder.path / "last.pt", 2)
    plain = make_run("first", epochs=2)
    state, messages = plain.folder.find()
    assert "other starting weights" in messages[0]
    assert state is not None  # the first run's own, moved back
    assert state.epoch == 1


def test_a_disk_that_fills_while_torch_writes_is_reported_as_such(make_run: MakeRun) -> None:
    run = make_run(epochs=1)
    run.fit()
    before = {path.name: path.read_bytes() for path in run.folder.path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before["last.pt"]) // 2, limits[1]))
        with pytest.raises(CheckpointError, match=r"last\.pt cannot be written: File too large.*untouched"):
            run.folder.keep_last(run.train_state, Progress())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert {path.name: path.read_bytes() for path in run.folder.path.iterdir()} == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: p["extra"]["best"]["weights"].clear(),
        lambda p: p["extra"]["best"].update(val_auc=None),
        lambda p: next(iter(p["extra"]["best"]["weights"].values())).fill_(float("nan")),
        lambda p: next(iter(p["model"].values())).fill_(float("nan")),
        lambda p: p.update(epoch="3"),
        lambda p: p.update(epoch=-2),
        lambda p: p["extra"]["means"].update(steps="two"),
        lambda p: p["extra"].update(setting=None),
        lambda p: p["extra"]["history"].clear(),
        lambda p: p["extra"]["history"][0].update(val_auc="high"),
        lambda p: p["optimizer"]["state"][0].update(exp_avg=torch.zeros(7)),
    ],
)
def test_a_modified_state_is_reported(make_run: MakeRun, spoil: Callable[[dict], None]) -> None:
    run = make_run(epochs=1)
    run.fit()
    path = run.folder.path / "last.pt"
    state = read_checkpoint(path)
    spoil(state.payload)
    with pytest.raises(CheckpointError, match=r"last\.pt holds a training state that does not fit"):
        run.folder.restore(state, run.train_state)


def test_last_pt_is_a_checkpoint_like_any_other(make_run: MakeRun) -> None:
    run = make_run(epochs=1)
    run.fit()
    state = read_checkpoint(run.folder.path / "last.pt")
    network = state.build()
    assert state.epoch == 1
    for name, value in weights_of(run.train_state).items():
        assert torch.equal(value, network.state_dict()[name])


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda _: b"", lambda _: b"not a checkpoint"])
def test_a_damaged_file_is_reported(
    make_run: MakeRun, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    run = make_run(epochs=1)
    run.fit()
    broken = tmp_path / "broken.pt"
    broken.write_bytes(damage((run.folder.path / "last.pt").read_bytes()))
    with pytest.raises(CheckpointError, match=r"broken\.pt"):
        run.folder.resume(read_checkpoint(broken), run.train_state)


def test_an_incomplete_state_is_reported(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(epochs=1)
    run.fit()
    payload = torch.load(run.folder.path / "last.pt", weights_only=True)
    del payload["optimizer"]
    torch.save(payload, tmp_path / "partial.pt")
    with pytest.raises(CheckpointError, match=r"partial\.pt.*optimizer"):
        run.folder.resume(read_checkpoint(tmp_path / "partial.pt"), run.train_state)
