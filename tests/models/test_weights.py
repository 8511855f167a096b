"""Checkpoints: the same bytes twice, whole or not at all, loaded flexibly with a report, never executed."""

import os

import numpy as np
import pytest
import torch

from stf.config import STFV8Config
from stf.errors import CheckpointError, StfError
from stf.io.values import printable
from stf.models.backbone_v73 import STFMambaV73
from stf.models.losses import STFV8Loss
from stf.models.network import build_network
from stf.models.scan_backends import resolve_backend
from stf.models.weights import (
    load_checkpoint_flexible,
    load_model,
    load_weights,
    read_checkpoint,
    save_checkpoint,
)
from tests.reference import models_mamba_ssm_fake as fake


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


@pytest.mark.parametrize(
    ("asked", "used"), [("auto", "mamba_ssm"), ("mamba_ssm", "mamba_ssm"), ("auto", "torch")]
)
def test_weights_move_to_a_machine_without_mamba_ssm(tmp_path, monkeypatch, asked, used):
    config = STFV8Config(**{**vars(STFV8Config.debug()), "ssm_backend": asked})
    fake.install(monkeypatch)
    trained = build_network(config, "cuda" if used == "mamba_ssm" else "cpu").eval()
    assert trained.ssm_backend == used
    video = torch.rand(2, 3, 8, 32, 32)
    expected = trained(video)
    save_checkpoint(tmp_path / "x.pt", trained, config=config, epoch=1)
    payload = read_checkpoint(tmp_path / "x.pt")
    assert (payload["ssm_backend"], payload["config"]["ssm_backend"]) == (used, asked)
    fake.remove(monkeypatch)
    loaded, found, _ = load_model(tmp_path / "x.pt")
    assert (loaded.ssm_backend, found.ssm_backend) == ("torch", asked)
    out = loaded(video)
    for name in expected:
        torch.testing.assert_close(out[name], expected[name], rtol=1e-4, atol=1e-5)


def test_a_convolution_stays_one(tmp_path):
    model, config = build(ssm_backend="conv1d")
    save_checkpoint(tmp_path / "x.pt", model, config=config, epoch=1)
    loaded, found, _ = load_model(tmp_path / "x.pt")
    assert (
        loaded.ssm_backend
        == found.ssm_backend
        == read_checkpoint(tmp_path / "x.pt")["ssm_backend"]
        == "conv1d"
    )
    video = torch.rand(2, 3, 8, 32, 32)
    assert torch.equal(loaded(video)["logits"], model.eval()(video)["logits"])


@pytest.mark.gpu
def test_a_network_is_loaded_onto_its_device_with_the_backend_of_that_device(saved):
    path, model, _ = saved
    loaded, _, _ = load_model(path, "cuda")
    assert next(loaded.parameters()).device.type == "cuda"
    assert loaded.ssm_backend == resolve_backend("auto", "cuda")
    video = torch.rand(2, 3, 8, 32, 32)
    logits = loaded(video.cuda())["logits"].cpu()
    torch.testing.assert_close(logits, model.eval()(video)["logits"], rtol=1e-2, atol=1e-3)


def test_a_delivered_checkpoint_holds_weights_config_and_epoch_only(saved):
    assert set(read_checkpoint(saved[0])) == {"format", "config", "epoch", "model", "ssm_backend"}
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


def test_the_authors_call_brings_every_state_and_the_best_auc_back(tmp_path):
    """By position: path, model, optimizer, scheduler, scaler, epoch, best_auc, config."""
    model, config = build()
    optimizer = trained_optimizer(model)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    optimizer.step()
    schedule.step()
    path = tmp_path / "last.pt"
    save_checkpoint(path, model, optimizer, schedule, scaler, 5, np.float64(0.9857), config)
    other, _ = build(seed=1)
    parts = trained_optimizer(other), torch.amp.GradScaler("cpu")
    other_schedule = torch.optim.lr_scheduler.CosineAnnealingLR(parts[0], 10)
    report = load_checkpoint_flexible(path, other, parts[0], other_schedule, parts[1])
    assert (report.epoch, report.best_auc) == (5, 0.9857)
    assert report.restored == ("optimizer", "scheduler", "scaler")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert parts[0].param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] < 1e-3
    assert other_schedule.state_dict() == schedule.state_dict()
    assert parts[1].get_scale() == 512.0


def test_without_a_configuration_nothing_is_written(tmp_path):
    model, _ = build()
    with pytest.raises(TypeError, match="config"):
        save_checkpoint(tmp_path / "x.pt", model, epoch=1)
    assert not (tmp_path / "x.pt").exists()


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
    own = {name: value.numel() for name, value in after.items()}
    assert {name: report.sizes[name] for name in own} == own
    assert report.parameters("dropped") == sum(weights[name].numel() for name in report.dropped)


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
    with pytest.raises(
        CheckpointError, match=r"does not fit.* [1-9]\d* tensors are missing.*first: stage3\."
    ) as caught:
        load_weights(saved[0], build(stage3_blocks=2)[0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"stem_dim": 8, "no_such_field": 1}},
        {"config": {"stem_dim": -8}},
        {"config": {"stem_dim": "wide"}},
        {"config": {3: 3}},
        {"config": {"evil\x1b[2J\n" + "e" * 200_000: 1}},
        {"config": None},
        {"epoch": "seven"},
        {"format": "stf-mamba-99"},
    ],
)
def test_a_config_that_cannot_be_built_is_a_checkpoint_error(saved, change):
    path = saved[0]
    torch.save(read_checkpoint(path) | change, path)
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    said = printable(str(caught.value)).replace(str(path), "FILE")
    assert len(said) < 300
    assert "__init__" not in said


def test_errors_are_the_users_to_mend():
    assert issubclass(CheckpointError, StfError)
