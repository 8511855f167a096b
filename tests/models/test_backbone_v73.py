"""STFMambaV73: shapes, gradients, scales at initialisation, flags, reproducibility, precision."""

import itertools

import pytest
import torch

from stf.config import PHASE_A_FLAGS, PHASE_B_FLAGS, STFV8Config
from stf.errors import ConfigError
from stf.models.backbone_v73 import STFMambaV73
from stf.models.losses import STFV8Loss
from tests.reference.models_clips import camera_clips, pairs


def sample_config() -> STFV8Config:
    return STFV8Config.from_params("profiles/sample.yaml")


@pytest.fixture(scope="module")
def debug():
    torch.manual_seed(0)
    return STFMambaV73(STFV8Config.debug()).eval()


def test_output_names_and_shapes(debug):
    out = debug(camera_clips(3, 8, 32))
    assert {name: tuple(value.shape) for name, value in out.items()} == {
        "logits": (3, 2),
        "hll_energy": (3,),
        "all_band_energy": (3,),
    }
    assert debug.hll_maps(camera_clips(3, 8, 32)).shape == (3, 2, 2, 2)


@pytest.mark.parametrize(("n_frames", "size_px"), [(8, 48), (10, 32), (12, 80)])
def test_sizes_that_do_not_halve_five_times(n_frames, size_px):
    config = STFV8Config.debug()
    config.num_frames, config.img_size = n_frames, size_px
    out = STFMambaV73(config)(camera_clips(2, n_frames, size_px))
    assert all(value.isfinite().all() for value in out.values())


def test_clips_of_a_batch_do_not_influence_each_other(debug):
    video = camera_clips(3, 8, 32)
    whole, alone = debug(video), debug(video[1:2])
    for name in whole:
        torch.testing.assert_close(whole[name][1:2], alone[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("flags", [(), ("use_contrastive_hll",), PHASE_A_FLAGS])
@pytest.mark.parametrize("config", [STFV8Config.debug(), sample_config()], ids=["debug", "sample"])
def test_hll_loss_alone_reaches_every_early_weight(config, flags):
    config = STFV8Config(
        **{
            **vars(config),
            **dict.fromkeys(PHASE_A_FLAGS, False),
            **dict.fromkeys(flags, True),
            "drop_path": 0.0,
        }
    )
    torch.manual_seed(0)
    model, loss = STFMambaV73(config), STFV8Loss(config)
    video, labels = pairs(1, config.num_frames, config.img_size, strength=0.005)
    out = model(video)
    loss.hll(out["hll_energy"], out["all_band_energy"], labels)[0].backward()
    early = dict(model.backbone_parameters())
    assert {name.split(".")[1] for name in early} == {"stem", "stage1", "stage2"}
    without = [name for name, p in early.items() if p.grad is None or not (p.grad != 0).any()]
    assert without == []


def test_the_total_loss_reaches_every_parameter():
    config = STFV8Config.debug()
    config.use_contrastive_hll = config.use_hll_normalization = True
    torch.manual_seed(0)
    model, loss = STFMambaV73(config), STFV8Loss(config)
    video, labels = pairs(2, 8, 32, strength=0.005)
    loss(model(video), labels)["total"].backward()
    parameters = [*model.named_parameters(), *loss.named_parameters()]
    assert [n for n, p in parameters if p.grad is None or not (p.grad != 0).any()] == []


def ratio_of_losses(config: STFV8Config, video: torch.Tensor, seed: int) -> float:
    """λ·L_HLL over the cross-entropy of V7.3's loss at initialisation, reals and fakes alike real."""
    torch.manual_seed(seed)
    model, loss = STFMambaV73(config).eval(), STFV8Loss(config)
    with torch.no_grad():
        result = loss(model(video), torch.arange(len(video)) % 2)
    return (config.hll_loss_weight * result["hll"] / result["ce"]).item()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["camera", "white noise"])
def test_losses_start_within_a_factor_of_ten_on_the_sample_config(seed, kind):
    config = sample_config()
    config.use_contrastive_hll = config.use_hll_normalization = False
    noise = torch.rand(2, 3, 16, 96, 96, generator=torch.Generator().manual_seed(seed))
    video = camera_clips(2, 16, 96, seed) if kind == "camera" else noise
    assert 0.1 < ratio_of_losses(config, video, seed) < 10


def test_losses_start_within_a_factor_of_ten_on_the_debug_config():
    """Sixteen channels scatter: the median network over five seeds."""
    ratios = [ratio_of_losses(STFV8Config.debug(), camera_clips(4, 8, 32, seed), seed) for seed in range(5)]
    assert 0.1 < sorted(ratios)[2] < 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["camera", "white noise"])
def test_losses_start_within_a_factor_of_ten_at_full_size(kind):
    noise = torch.rand(1, 3, 32, 224, 224, generator=torch.Generator().manual_seed(0))
    video = camera_clips(1, 32, 224) if kind == "camera" else noise
    assert 0.1 < ratio_of_losses(STFV8Config(), video, seed=0) < 10


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_flags_of_v8_are_refused_by_name(n):
    for flags in itertools.combinations(PHASE_B_FLAGS, n):
        config = STFV8Config.debug()
        for flag in flags:
            setattr(config, flag, True)
        with pytest.raises(ConfigError, match="build STFMambaV8") as error:
            STFMambaV73(config)
        assert all((flag in str(error.value)) == (flag in flags) for flag in PHASE_B_FLAGS)


def test_phase_a_flags_change_no_weight():
    torch.manual_seed(0)
    plain = STFMambaV73(STFV8Config.debug()).state_dict()
    config = STFV8Config.debug()
    for flag in PHASE_A_FLAGS:
        setattr(config, flag, True)
    torch.manual_seed(0)
    flagged = STFMambaV73(config).state_dict()
    assert list(plain) == list(flagged)
    assert all(torch.equal(plain[name], flagged[name]) for name in plain)


def test_a_config_changed_to_nonsense_is_refused():
    config = STFV8Config.debug()
    config.num_frames = 9
    with pytest.raises(ConfigError, match="num_frames"):
        STFMambaV73(config)


def test_both_groups_together_are_all_parameters(debug):
    names = [
        name for group in (debug.backbone_parameters(), debug.temporal_parameters()) for name, _ in group
    ]
    assert sorted(names) == sorted(name for name, _ in debug.named_parameters())


def test_no_weight_decay_names_the_state_space_parameters(debug):
    assert debug.no_weight_decay() == {f"stage3.0.mixer.{name}" for name in ("A_log", "D", "dt_bias")}


def test_training_gradients_are_bit_identical_over_runs():
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        config = STFV8Config.debug()
        model = STFMambaV73(config).train()
        video, labels = pairs(2, 8, 32)
        STFV8Loss(config)(model(video), labels)["total"].backward()
        runs.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_bfloat16_autocast_stays_close_and_keeps_energies_in_float32(debug):
    video = camera_clips(2, 8, 32)
    with torch.no_grad():
        exact = debug(video)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = debug(video)
    assert rounded["hll_energy"].dtype == rounded["all_band_energy"].dtype == torch.float32
    torch.testing.assert_close(rounded["hll_energy"], exact["hll_energy"], rtol=0.1, atol=0.05)
    torch.testing.assert_close(rounded["logits"].float(), exact["logits"], rtol=0.1, atol=0.05)


def test_flicker_raises_the_share_of_hll(debug):
    video, labels = pairs(4, 8, 32)
    with torch.no_grad():
        out = debug(video)
    share = out["hll_energy"] / out["all_band_energy"].sqrt()
    assert (share[labels == 1] > share[labels == 0]).all()


def test_hll_maps_light_up_where_it_flickers(debug):
    video = camera_clips(2, 8, 128)
    fake = video.clone()
    fake[:, :, ::2, :48] -= 0.2  # three of eight rows of the map; snakes carry it two rows further
    added = (debug.hll_maps(fake.clamp(0, 1)) - debug.hll_maps(video)).mean((0, 1, 3))
    assert added[:3].min() > 0.5
    assert added[6].abs() < 0.05  # the last row wraps to the first: the transform is periodised in space too
