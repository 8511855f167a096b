"""Checkpoints: the same bytes twice, written whole or not at all, read once, loaded flexibly with a report."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from stf.config import STFV8Config
from stf.data.faces import CROP_RULES, draw_side_factors, final_crop_window, first_crop_window
from stf.errors import CheckpointError
from stf.io.values import printable
from stf.models.backbone_v73 import STFMambaV73
from stf.models.checkpoint import load_checkpoint_flexible, read_checkpoint, save_checkpoint
from stf.models.losses import STFV8Loss
from stf.models.network import build_network
from stf.models.scan_backends import resolve_backend
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
    path = tmp_path / "weights" / "best.safetensors"
    save_checkpoint(path, model, config=config, epoch=7)
    return path, model, config


def assert_equal_weights(first, second):
    assert first.state_dict().keys() == second.state_dict().keys()
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_round_trip_builds_the_same_network_from_the_config_inside(saved):
    path, model, config = saved
    checkpoint = read_checkpoint(path)
    loaded = checkpoint.build()
    assert (checkpoint.epoch, loaded.training) == (7, False)
    assert vars(checkpoint.config) | {"num_workers": 0} == vars(config)
    video = torch.rand(2, 3, 8, 32, 32)
    expected, out = model.eval()(video), loaded(video)
    assert all(torch.equal(out[name], expected[name]) for name in expected)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_equal_state_gives_equal_bytes_wherever_it_is_written(tmp_path, suffix):
    """Not so for another epoch; the number of workers belongs to the machine, not to the result."""
    written = []
    for name, workers, epoch in (("a", 0, 7), ("other-name", 0, 7), ("workers", 3, 7), ("epoch", 0, 8)):
        model, config = build(num_workers=workers)
        save_checkpoint(tmp_path / f"{name}.{suffix}", model, config=config, epoch=epoch)
        written.append((tmp_path / f"{name}.{suffix}").read_bytes())
    assert written[0] == written[1] == written[2] != written[3]


def test_two_processes_with_other_hash_seeds_write_equal_bytes(tmp_path):
    """A dict's or set's order must not reach the file."""
    program = (
        "import sys, torch; from stf.config import STFV8Config; from stf.models.backbone_v73 import STFMambaV73; "
        "from stf.models.checkpoint import save_checkpoint; torch.manual_seed(0); config = STFV8Config.debug(); "
        "model = STFMambaV73(config); "
        "[save_checkpoint(sys.argv[1] + end, model, config=config, epoch=1) for end in ('.pt', '.safetensors')]"
    )
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "CUDA_VISIBLE_DEVICES": ""}
        subprocess.run([sys.executable, "-c", program, str(tmp_path / seed)], env=environment, check=True)
    for suffix in ("pt", "safetensors"):
        assert (tmp_path / f"1.{suffix}").read_bytes() == (tmp_path / f"2.{suffix}").read_bytes()


def test_the_settings_of_a_weights_file_are_json_under_one_key(saved):
    """Any reader of safetensors can show them; several keys would be written in random order."""
    path, _, config = saved
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert list(metadata) == ["stf-mamba"]
    settings = json.loads(metadata["stf-mamba"])
    assert set(settings) == {"format", "config", "crop", "epoch", "ssm_backend", "sha256"}
    assert (settings["epoch"], settings["ssm_backend"]) == (7, "torch")
    assert settings["config"]["num_frames"] == config.num_frames
    assert settings["config"]["img_size"] == config.img_size
    assert "num_workers" not in settings["config"]


def test_the_crop_rules_in_the_file_are_those_of_the_crops():
    """For a face of 80 x 160 pixels in a large image: margins are shares of its width and height."""
    landmarks = np.array([[400, 300], [480, 460]] * 34)
    share_of = np.array([80, 80, 160, 160])  # left, right, top, bottom

    def margins(window):
        y0, y1, x0, x1 = window
        return [400 - x0, x1 - 1 - 480, 300 - y0, y1 - 1 - 460]

    first = first_crop_window(landmarks, 1000, 1000)
    assert margins(first) == (share_of * CROP_RULES["first_crop_margins"]).tolist()
    factors = draw_side_factors(np.random.default_rng(0), train=False)
    assert factors == (CROP_RULES["final_crop_factor"],) * 4
    final = final_crop_window(landmarks[:2], 1000, 1000, factors)
    shares = np.array(CROP_RULES["final_crop_margins"]) * CROP_RULES["final_crop_factor"]
    assert margins(final) == (share_of * shares).tolist()


def test_weights_of_other_crop_rules_are_refused(saved, monkeypatch):
    path, _, _ = saved
    monkeypatch.setattr("stf.models.checkpoint.CROP_RULES", CROP_RULES | {"final_crop_factor": 0.7})
    with pytest.raises(CheckpointError, match="faces cropped by other rules"):
        read_checkpoint(path).build()


def test_a_file_is_read_once(saved, monkeypatch):
    """Hash, configuration, epoch, network and flexible loading come from the bytes that were checked."""
    path, model, _ = saved
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    checkpoint = read_checkpoint(path)
    path.write_bytes(b"another file by now")
    assert (checkpoint.sha256, checkpoint.epoch) == (digest, 7)
    assert_equal_weights(checkpoint.build(), model)
    assert checkpoint.load_into(build(seed=3)[0]).new == ()


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_the_sha256_is_that_of_the_file(tmp_path, suffix):
    model, config = build()
    save_checkpoint(tmp_path / f"x.{suffix}", model, config=config, epoch=1)
    digest = hashlib.sha256((tmp_path / f"x.{suffix}").read_bytes()).hexdigest()
    assert read_checkpoint(tmp_path / f"x.{suffix}").sha256 == digest


def test_files_are_recognised_by_content_not_by_name(saved, tmp_path):
    path, model, config = saved
    path.rename(tmp_path / "x.pth")
    save_checkpoint(tmp_path / "y.pt", model, config=config, epoch=7)
    (tmp_path / "y.pt").rename(tmp_path / "y.safetensors")
    for name in ("x.pth", "y.safetensors"):
        assert_equal_weights(read_checkpoint(tmp_path / name).build(), model)


def test_weights_of_an_earlier_version_are_read(saved, tmp_path):
    """weights/phase_*.pt as they were before safetensors: no crop rules, a checksum in zip's comment."""
    path, model, _ = saved
    payload = {k: v for k, v in read_checkpoint(path).payload.items() if k != "crop"}
    torch.save(payload, tmp_path / "phase_a.pt")
    checkpoint = read_checkpoint(tmp_path / "phase_a.pt")
    assert_equal_weights(checkpoint.build(), model)
    assert checkpoint.epoch == 7


@pytest.mark.parametrize("part", ["optimizer", "loss", "extra"])
def test_a_training_state_does_not_go_into_a_weights_file(tmp_path, part):
    model, config = build()
    parts = {"optimizer": trained_optimizer(model), "loss": STFV8Loss(config), "extra": {"step": 1}}
    with pytest.raises(ValueError, match=rf"weights alone; write {part} to a \.pt file"):
        save_checkpoint(tmp_path / "x.safetensors", model, config=config, **{part: parts[part]})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("requested", "used"), [("auto", "mamba_ssm"), ("mamba_ssm", "mamba_ssm"), ("auto", "torch")]
)
def test_weights_move_to_a_machine_without_mamba_ssm(tmp_path, monkeypatch, requested, used):
    config = STFV8Config(**{**vars(STFV8Config.debug()), "ssm_backend": requested})
    fake.install(monkeypatch)
    trained = build_network(config, "cuda" if used == "mamba_ssm" else "cpu").eval()
    assert trained.ssm_backend == used
    video = torch.rand(2, 3, 8, 32, 32)
    expected = trained(video)
    save_checkpoint(tmp_path / "x.safetensors", trained, config=config, epoch=1)
    checkpoint = read_checkpoint(tmp_path / "x.safetensors")
    assert checkpoint.payload["ssm_backend"] == used
    fake.remove(monkeypatch)
    loaded = checkpoint.build()
    assert (loaded.ssm_backend, checkpoint.config.ssm_backend) == ("torch", requested)
    out = loaded(video)
    for name in expected:
        torch.testing.assert_close(out[name], expected[name], rtol=1e-4, atol=1e-5)


def test_conv1d_weights_are_loaded_as_conv1d(tmp_path):
    model, config = build(ssm_backend="conv1d")
    save_checkpoint(tmp_path / "x.safetensors", model, config=config, epoch=1)
    checkpoint = read_checkpoint(tmp_path / "x.safetensors")
    loaded = checkpoint.build()
    assert (
        loaded.ssm_backend == checkpoint.config.ssm_backend == checkpoint.payload["ssm_backend"] == "conv1d"
    )
    video = torch.rand(2, 3, 8, 32, 32)
    assert torch.equal(loaded(video)["logits"], model.eval()(video)["logits"])


@pytest.mark.gpu
def test_a_network_is_loaded_onto_its_device_with_the_backend_of_that_device(saved):
    path, model, _ = saved
    loaded = read_checkpoint(path).build("cuda")
    assert next(loaded.parameters()).device.type == "cuda"
    assert loaded.ssm_backend == resolve_backend("auto", "cuda")
    video = torch.rand(2, 3, 8, 32, 32)
    logits = loaded(video.cuda())["logits"].cpu()
    torch.testing.assert_close(logits, model.eval()(video)["logits"], rtol=1e-2, atol=1e-3)


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
    checkpoint = read_checkpoint(path)
    assert checkpoint.payload["extra"] == {"step": 12}
    assert torch.equal(checkpoint.payload["loss"]["hll.raw_margin"], loss.state_dict()["hll.raw_margin"])
    assert_equal_weights(checkpoint.build(), model)


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
    assert_equal_weights(model, other)
    assert parts[0].param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] < 1e-3
    assert other_schedule.state_dict() == schedule.state_dict()
    assert parts[1].get_scale() == 512.0


def test_the_authors_call_writes_a_weights_file_too(tmp_path):
    """By its name, when there is no optimizer, schedule or scaler; the best AUC and the epoch come back."""
    model, config = build()
    path = tmp_path / "best.safetensors"
    save_checkpoint(path, model, None, None, None, 5, np.float64(0.9857), config)
    other, _ = build(seed=1)
    report = load_checkpoint_flexible(path, other, trained_optimizer(other))
    assert (report.epoch, report.best_auc, report.restored) == (5, 0.9857, ())
    assert_equal_weights(model, other)


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
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_plain_and_wrapped_weights_of_other_programs_load(tmp_path, wrap, prefix):
    model, _ = build()
    path = tmp_path / "foreign.pt"
    torch.save(wrap({prefix + name: value for name, value in model.state_dict().items()}), path)
    other, _ = build(seed=3)
    load_checkpoint_flexible(path, other)
    assert_equal_weights(model, other)


def test_plain_safetensors_of_other_programs_load(tmp_path):
    model, _ = build()
    save_file(model.state_dict(), tmp_path / "foreign.safetensors", {"format": "pt", "made_by": "another"})
    other, _ = build(seed=3)
    report = load_checkpoint_flexible(tmp_path / "foreign.safetensors", other)
    assert (report.epoch, report.new, report.dropped) == (None, (), ())
    assert_equal_weights(model, other)
    with pytest.raises(CheckpointError, match="not a checkpoint of STF-Mamba"):
        read_checkpoint(tmp_path / "foreign.safetensors").build()


def test_of_several_sets_of_weights_the_moving_average_is_taken(tmp_path):
    """As timm does for files that hold both."""
    model, _ = build()
    others = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    torch.save({"state_dict": others, "state_dict_ema": model.state_dict()}, tmp_path / "both.pth")
    other, _ = build(seed=3)
    load_checkpoint_flexible(tmp_path / "both.pth", other)
    assert_equal_weights(model, other)


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


def test_weights_that_do_not_fit_their_configuration_are_refused(tmp_path):
    model, _ = build(stage3_blocks=3)
    _, config = build(stage3_blocks=2)
    save_checkpoint(tmp_path / "x.safetensors", model, config=config)
    expected = r"does not fit.* 0 tensors are missing, [1-9]\d* belong.*first: stage3\.2\."
    with pytest.raises(CheckpointError, match=expected) as caught:
        read_checkpoint(tmp_path / "x.safetensors").build()
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
    torch.save(read_checkpoint(path).payload | change, path)
    with pytest.raises(CheckpointError) as caught:
        checkpoint = read_checkpoint(path)
        checkpoint.build()
        assert checkpoint.epoch
    message = printable(str(caught.value)).replace(str(path), "FILE")
    assert len(message) < 300
    assert "__init__" not in message
