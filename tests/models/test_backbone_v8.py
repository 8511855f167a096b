"""STFMambaV8: V7.3 without flags, transfer of phase A's weights, where each upgrade is built in, backends."""

import itertools
from dataclasses import replace

import pytest
import torch

from stf.config import FLAGS, PHASE_A_FLAGS, PHASE_B_FLAGS, STFV8Config
from stf.models.backbone_v8 import STFMambaV8
from stf.models.backbone_v73 import STFMambaV73
from stf.models.checkpoint import load_checkpoint_flexible, read_checkpoint, save_checkpoint
from stf.models.hydra_mixer import HydraQuasiseparableMixer, MamerBlock
from stf.models.losses import STFV8Loss
from stf.models.mamba_blocks import MambaVisionMixer
from stf.models.network import build_network
from tests.reference.models_clips import camera_clips, pairs


def config_with(*flags: str, **fields) -> STFV8Config:
    return replace(STFV8Config.debug(), **fields, **dict.fromkeys(flags, True))


def built(config: STFV8Config, kind: type = STFMambaV8, seed: int = 0):
    torch.manual_seed(seed)
    return kind(config).eval()


def outputs(model, config) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return model(camera_clips(3, config.num_frames, config.img_size))


@pytest.mark.parametrize("flags", [(), PHASE_A_FLAGS], ids=["V7.3", "A"])
def test_without_an_upgrade_it_is_v73(flags):
    config = config_with(*flags)
    old, new = built(config, STFMambaV73), built(config)
    assert {n: v.shape for n, v in old.state_dict().items()} == {
        n: v.shape for n, v in new.state_dict().items()
    }
    new.load_state_dict(old.state_dict())
    for name, value in outputs(old, config).items():
        torch.testing.assert_close(outputs(new, config)[name], value, rtol=0, atol=0)


@pytest.mark.parametrize(("flag", "tolerance"), [("use_wss", 0.0), ("use_adaptive_sdim", 1e-3)])
def test_an_upgrade_that_starts_silent_starts_phase_b_at_phase_a(flag, tolerance, tmp_path):
    """The scan's projection starts at zero, the state's gate all but open."""
    a, b = config_with(*PHASE_A_FLAGS), config_with(*PHASE_A_FLAGS, flag)
    phase_a = built(a)
    save_checkpoint(tmp_path / "a.pt", phase_a, config=a, epoch=1)
    phase_b = built(b, seed=1)
    report = load_checkpoint_flexible(tmp_path / "a.pt", phase_b)
    assert not report.dropped
    assert not report.reshaped
    for name, value in outputs(phase_a, a).items():
        torch.testing.assert_close(outputs(phase_b, b)[name], value, rtol=tolerance, atol=tolerance)


def test_only_the_mixers_are_new_or_dropped_on_the_way_from_a_to_b(tmp_path):
    a, b = config_with(*PHASE_A_FLAGS, stage3_blocks=2), config_with(*FLAGS, stage3_blocks=2)
    save_checkpoint(tmp_path / "a.pt", built(a), config=a, epoch=1)
    report = load_checkpoint_flexible(tmp_path / "a.pt", built(b, seed=1))
    prefixes = {name.split(".")[0] for name in report.new}
    assert prefixes == {"stage3", "frequency", "state_gate"}
    assert all(".mixer." in name or name.startswith("stage3.1.") for name in report.dropped)
    assert len(report.loaded) > len(report.new)


@pytest.mark.parametrize("flags", [f for n in range(5) for f in itertools.combinations(PHASE_B_FLAGS, n)])
def test_every_part_is_where_its_flag_puts_it(flags):
    model = built(config_with(*flags, stage3_blocks=3))
    expected = HydraQuasiseparableMixer if "use_hydra" in flags else MambaVisionMixer
    mixers = [m for m in model.modules() if isinstance(m, HydraQuasiseparableMixer | MambaVisionMixer)]
    assert [type(m) for m in mixers] == [expected] * 3
    assert [isinstance(block, MamerBlock) for block in model.stage3] == [False, False, "use_mamer" in flags]
    assert (sum(p.numel() for p in model.frequency.parameters()) > 0) == ("use_wss" in flags)
    assert (sum(p.numel() for p in model.state_gate.parameters()) > 0) == ("use_adaptive_sdim" in flags)


def test_the_total_loss_reaches_every_parameter_after_a_step():
    """The first step moves the projection of the scan off zero; from then on everything before it learns."""
    config = config_with(*FLAGS, stage3_blocks=2, dropout=0.0, drop_path=0.0)
    torch.manual_seed(0)
    model, loss = STFMambaV8(config), STFV8Loss(config)
    video, labels = pairs(2, 8, 32, strength=0.005)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        loss(model(video), labels)["total"].backward()
        optimizer.step()
    parameters = [*model.named_parameters(), *loss.named_parameters()]
    assert [n for n, p in parameters if p.grad is None or not (p.grad != 0).any()] == []


def test_energies_do_not_depend_on_the_upgrades_of_later_stages():
    config = config_with(*FLAGS)
    model, plain = built(config), built(config_with(*PHASE_A_FLAGS), STFMambaV73, seed=1)
    shared = {n: v for n, v in model.state_dict().items() if n.startswith(("early.", "energy_dwt."))}
    plain.load_state_dict(shared, strict=False)
    for name in ("hll_energy", "all_band_energy"):
        torch.testing.assert_close(
            outputs(model, config)[name], outputs(plain, config)[name], rtol=1e-5, atol=1e-6
        )


def test_clips_of_a_batch_do_not_influence_each_other():
    config = config_with(*FLAGS)
    model, video = built(config), camera_clips(3, 8, 32)
    whole, alone = model(video), model(video[1:2])
    for name in whole:
        torch.testing.assert_close(whole[name][1:2], alone[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("n_frames", "size_px"), [(8, 48), (10, 32), (12, 80)])
def test_sizes_that_do_not_halve_five_times(n_frames, size_px):
    config = config_with(*FLAGS, num_frames=n_frames, img_size=size_px)
    assert all(value.isfinite().all() for value in outputs(built(config), config).values())


def test_open_share_is_one_without_an_adaptive_state_and_within_its_bounds_with_one():
    video = camera_clips(3, 8, 32)
    assert torch.equal(built(config_with("use_hydra")).open_share(video), torch.ones(3))
    share = built(config_with("use_adaptive_sdim")).open_share(video)
    assert share.shape == (3,)
    assert ((share > 0) & (share <= 1)).all()


def test_the_network_follows_the_flags(tmp_path):
    assert type(build_network(config_with(*PHASE_A_FLAGS))) is STFMambaV73
    config = config_with(*FLAGS)
    model = build_network(config)
    assert type(model) is STFMambaV8
    save_checkpoint(tmp_path / "b.pt", model, config=config, epoch=3)
    saved = read_checkpoint(tmp_path / "b.pt")
    loaded, stored, epoch = saved.build(), saved.config, saved.epoch
    assert (type(loaded), stored, epoch) == (STFMambaV8, replace(config, num_workers=stored.num_workers), 3)
    for name, value in outputs(model.eval(), config).items():
        assert torch.equal(outputs(loaded, config)[name], value)


def test_state_space_parameters_of_every_mixer_are_free_of_decay():
    for flags in ((), ("use_hydra",)):
        names = built(config_with(*flags)).no_weight_decay()
        assert names == {f"stage3.0.mixer.{name}" for name in ("A_log", "D", "dt_bias")}


def test_bfloat16_autocast_gives_finite_float32_energies():
    config = config_with(*FLAGS)
    with torch.autocast("cpu", torch.bfloat16):
        out = outputs(built(config), config)
    assert out["hll_energy"].dtype == out["all_band_energy"].dtype == torch.float32
    assert all(value.float().isfinite().all() for value in out.values())
