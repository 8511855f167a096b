"""Checkpoints: the same bytes twice, whole or not at all, loaded flexibly with a report, never executed."""

import os
import pickle
import zipfile

import pytest
import torch

from stf.config import STFV8Config
from stf.errors import CheckpointError, StfError
from stf.models.backbone_v73 import STFMambaV73
from stf.models.losses import STFV8Loss
from stf.models.weights import (
    load_checkpoint_flexible,
    load_model,
    load_weights,
    read_checkpoint,
    save_checkpoint,
)


def build(seed: int = 0, **changes) -> tuple[STFMambaV73, STFV8Config]:
    config = STFV8Config(**{**vars(STFV8Config.debug()), **changes})
    torch.manual_seed(seed)
    return STFMambaV73(config), config


def trained_optimizer(model) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    return optimizer


@pytest.fixture
def saved(tmp_path):
    model, config = build()
    path = tmp_path / "weights" / "best.pt"
    save_checkpoint(path, model, config=config, epoch=7)
    return path, model, config


def test_round_trip_builds_the_same_network_from_the_config_inside(saved):
    path, model, config = saved
    loaded, loaded_config, epoch = load_model(path)
    assert (epoch, loaded.training) == (7, False)
    assert vars(loaded_config) | {"num_workers": 0} == vars(config)
    video = torch.rand(2, 3, 8, 32, 32)
    expected, out = model.eval()(video), loaded(video)
    assert all(torch.equal(out[name], expected[name]) for name in expected)


def test_equal_state_gives_equal_bytes_wherever_it_is_written(saved, tmp_path):
    path, _, config = saved
    again, _ = build()
    save_checkpoint(tmp_path / "other-name.pt", again, config=config, epoch=7)
    assert (tmp_path / "other-name.pt").read_bytes() == path.read_bytes()
    config.num_workers = 3  # the machine's affair, no part of the result
    save_checkpoint(tmp_path / "workers.pt", again, config=config, epoch=7)
    assert (tmp_path / "workers.pt").read_bytes() == path.read_bytes()
    save_checkpoint(tmp_path / "epoch.pt", again, config=config, epoch=8)
    assert (tmp_path / "epoch.pt").read_bytes() != path.read_bytes()


def test_a_delivered_checkpoint_holds_weights_config_and_epoch_only(saved):
    assert set(read_checkpoint(saved[0])) == {"format", "config", "epoch", "model"}
    assert "num_workers" not in read_checkpoint(saved[0])["config"]


def test_optimizer_schedule_and_margin_travel_with_a_resumable_one(tmp_path):
    model, config = build(use_contrastive_hll=True)
    optimizer, loss = trained_optimizer(model), STFV8Loss(config)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    optimizer.step()
    schedule.step()
    path = tmp_path / "last.pt"
    parts = {"optimizer": optimizer, "scheduler": schedule}
    save_checkpoint(path, model, config=config, epoch=1, loss=loss, extra={"step": 12}, **parts)
    other, _ = build(seed=1)
    other_optimizer = torch.optim.AdamW(other.parameters(), lr=9.0)
    other_schedule = torch.optim.lr_scheduler.StepLR(other_optimizer, 3)
    report = load_checkpoint_flexible(path, other, other_optimizer, other_schedule)
    assert report.restored == ("optimizer", "scheduler")
    assert other_optimizer.param_groups[0]["lr"] == 1e-3
    assert other_schedule.last_epoch == 1
    first, second = optimizer.state_dict()["state"][0], other_optimizer.state_dict()["state"][0]
    assert torch.equal(first["exp_avg"], second["exp_avg"])
    payload = read_checkpoint(path)
    assert payload["extra"] == {"step": 12}
    assert torch.equal(payload["loss"]["hll.raw_margin"], loss.state_dict()["hll.raw_margin"])
    load_model(path)  # what it holds besides is ignored


def test_unknown_parts_are_refused(tmp_path):
    model, config = build()
    with pytest.raises(TypeError, match="optimiser"):
        save_checkpoint(tmp_path / "x.pt", model, config=config, epoch=0, optimiser=trained_optimizer(model))


def test_a_failed_write_leaves_the_old_file(saved, monkeypatch):
    path, model, config = saved
    before = path.read_bytes()

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(path, model, config=config, epoch=8)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_flexible_loading_reports_loaded_new_dropped_and_reshaped(tmp_path):
    source, config = build(stage3_blocks=2)
    path = tmp_path / "source.pt"
    save_checkpoint(path, source, config=config, epoch=2, optimizer=trained_optimizer(source))
    target, _ = build(seed=5, stage4_blocks=2, dwt_channels=4)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    report = load_checkpoint_flexible(path, target, torch.optim.AdamW(target.parameters()))
    assert report.epoch == 2
    assert {name.rsplit(".", 2)[0].split(".")[0] for name in report.new} == {"stage4"}
    assert all(name.startswith("stage3.1.") for name in report.dropped)
    assert set(report.reshaped) == {
        "early.hll_gate.dwt.projection.weight",
        "early.hll_gate.hidden.0.weight",
        "energy_dwt.projection.weight",
    }
    assert report.restored == ()  # the optimizer's state belongs to other weights
    after, weights = target.state_dict(), source.state_dict()
    for name in (*report.new, *report.reshaped):
        assert torch.equal(after[name], before[name])
    assert all(torch.equal(after[name], weights[name]) for name in report.loaded)
    assert len(report.loaded) + len(report.new) + len(report.reshaped) == len(after)
    table = report.table()
    assert all(
        f"{len(getattr(report, kind)):5d}" in table for kind in ("loaded", "new", "dropped", "reshaped")
    )


@pytest.mark.parametrize(
    "wrap", [lambda w: w, lambda w: {"state_dict": w}, lambda w: {"model": w, "best": 0.9}]
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_plain_and_wrapped_weights_of_other_programs_load(tmp_path, wrap, prefix):
    model, _ = build()
    path = tmp_path / "foreign.pt"
    torch.save(wrap({prefix + name: value for name, value in model.state_dict().items()}), path)
    other, _ = build(seed=3)
    load_weights(path, other)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_weights_that_share_nothing_are_refused(tmp_path):
    path = tmp_path / "resnet.pt"
    torch.save({"conv1.weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="shares no weights"):
        load_checkpoint_flexible(path, build()[0])


def test_an_optimizer_of_other_groups_is_refused(tmp_path):
    model, config = build()
    save_checkpoint(tmp_path / "x.pt", model, config=config, epoch=0, optimizer=trained_optimizer(model))
    groups = [{"params": [p]} for p in model.parameters()]
    with pytest.raises(CheckpointError, match="state of the optimizer"):
        load_checkpoint_flexible(tmp_path / "x.pt", model, torch.optim.AdamW(groups))


def test_weights_that_do_not_fit_exactly_are_refused_where_they_must(saved):
    with pytest.raises(CheckpointError, match="does not fit"):
        load_weights(saved[0], build(stage3_blocks=2)[0])


class Payload:
    """Unpickling this would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def _truncated(path, tmp_path):
    path.write_bytes(path.read_bytes()[:-200])


def _half(path, tmp_path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path, tmp_path):
    path.write_bytes(b"")


def _text(path, tmp_path):
    path.write_text("version https://example.invalid/lfs\n")


def _code(path, tmp_path):
    torch.save({"model": Payload(tmp_path / "executed")}, path)


def _plain_pickle(path, tmp_path):
    path.write_bytes(pickle.dumps(Payload(tmp_path / "executed")))


def _flipped(path, tmp_path):
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
    content[largest.header_offset + 200 + largest.file_size // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def _folder(path, tmp_path):
    path.unlink()
    path.mkdir()


def _missing(path, tmp_path):
    path.unlink()


def _list(path, tmp_path):
    torch.save([1, 2], path)


def _nothing_inside(path, tmp_path):
    torch.save({"epoch": 1}, path)


DAMAGES = [
    _truncated,
    _half,
    _empty,
    _text,
    _code,
    _plain_pickle,
    _flipped,
    _folder,
    _missing,
    _list,
    _nothing_inside,
]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__.strip("_"))
def test_damaged_foreign_and_hostile_files_are_refused_in_one_line(saved, tmp_path, damage):
    path = saved[0]
    damage(path, tmp_path)
    for load in (load_model, lambda p: load_checkpoint_flexible(p, build()[0])):
        with pytest.raises(CheckpointError) as error:
            load(path)
        message = str(error.value)
        assert str(path) in message
        assert "\n" not in message
        assert len(message) < 400
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"stem_dim": 8, "no_such_field": 1}},
        {"config": {"stem_dim": -8}},
        {"config": None},
        {"epoch": "seven"},
        {"format": "stf-mamba-99"},
    ],
)
def test_a_config_that_cannot_be_built_is_a_checkpoint_error(saved, change):
    path = saved[0]
    torch.save(read_checkpoint(path) | change, path)
    with pytest.raises(CheckpointError):
        load_model(path)


def test_errors_are_the_users_to_mend():
    assert issubclass(CheckpointError, StfError)
