"""The closed-form counts equal the built network's parameters and torch's own count of products."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from stf import model_size
from stf.config import PHASE_B_FLAGS, STFV8Config
from stf.models import snake_cpu
from stf.models.backbone_v73 import STFMambaV73
from stf.models.network import build_network

ODD = {"stem_dim": 10, "stage1_dim": 20, "stage2_dim": 36, "stage3_dim": 40, "stage4_dim": 24, "num_heads": 4}
CONFIGS = {
    "debug": STFV8Config.debug(),
    "sample": STFV8Config.from_params("profiles/sample.yaml"),
    "odd": STFV8Config(
        **ODD, stage3_blocks=1, d_conv=3, ssm_expand=1, mlp_ratio=1.7, num_frames=10, img_size=48
    ),
    "short kernel": STFV8Config(
        **ODD, dcconv_kernel_length=3, stage4_blocks=3, d_state=5, num_frames=8, img_size=80
    ),
}


UPGRADES = [c for n in range(5) for c in itertools.combinations(PHASE_B_FLAGS, n)]
# What is counted for each of two or three upgrades does not depend on the others: `make test-all` alone tries them.
FEW_FIRST = [pytest.param(c, marks=[] if len(c) in (0, 1, 4) else pytest.mark.slow) for c in UPGRADES]


@pytest.mark.parametrize("flags", UPGRADES, ids=lambda flags: "+".join(flags) or "V7.3")
@pytest.mark.parametrize("config", [*CONFIGS.values(), STFV8Config()], ids=[*CONFIGS, "full size"])
def test_parameters_are_exact(config, flags):
    config = replace(config, **{flag: flag in flags for flag in PHASE_B_FLAGS})
    with torch.device("meta"):
        model = build_network(config)
    assert sum(model_size.parameters(config).values()) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("flags", FEW_FIRST, ids=lambda flags: "+".join(flags) or "V7.3")
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_products_equal_torchs_count(config, flags):
    config = replace(config, **{flag: flag in flags for flag in PHASE_B_FLAGS})
    counted = count_products(config)
    assert sum(model_size.multiply_adds(config).products.values()) == pytest.approx(counted, rel=0.01)


def test_the_convolution_in_a_mixers_place_is_counted_too():
    config = replace(STFV8Config.debug(), ssm_backend="conv1d")
    with torch.device("meta"):
        model = build_network(config)
    assert sum(model_size.parameters(config).values()) == sum(p.numel() for p in model.parameters())
    assert sum(model_size.multiply_adds(config).products.values()) == pytest.approx(
        count_products(config), rel=0.01
    )


def count_products(config) -> float:
    """Multiply-adds of matrix products and convolutions for one clip, by torch. It does not see into a GRU."""
    model = build_network(config).eval()
    video = torch.rand(1, 3, config.num_frames, config.img_size, config.img_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(video)
    C, K, n = config.dwt_channels, config.dwt_hidden_dim, config.num_frames // 2 - 2
    unseen = n * 2 * (3 * K * C + 3 * K * K) if config.use_wss else 0
    return counter.get_total_flops() / 2 + unseen


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_sampling_and_recurrence_follow_what_is_called(config, monkeypatch):
    """Counted where they happen: 8 corners per sampled number, and per state and step two multiply-adds."""
    counted = {"sampling": 0, "states": 0}
    sampler, exp = snake_cpu.sample, torch.exp

    def sample(table_PS, rows_PC, weights_PC):
        counted["sampling"] += table_PS.shape[1] * rows_PC.numel()
        return sampler(table_PS, rows_PC, weights_PC)

    def count_states(x, out=None):
        counted["states"] += x.numel() if out is not None else 0
        return exp(x, out=out)

    monkeypatch.setattr(snake_cpu, "sample", sample)
    monkeypatch.setattr(torch, "exp", count_states)
    model = STFMambaV73(config).eval()
    with torch.no_grad():
        model(torch.rand(1, 3, config.num_frames, config.img_size, config.img_size))
    work = model_size.multiply_adds(config)
    assert work.sampling == counted["sampling"]
    states = counted["states"] * config.num_frames // (config.num_frames - 1)  # the first step has no decay
    assert work.recurrence == pytest.approx(states * (2 + config.d_conv / config.d_state), rel=1e-6)


def test_describe_names_features_parameters_and_work():
    text = STFV8Config.phase_a().describe()
    assert "STF-Mamba V8.0-A" in text
    assert "use_contrastive_hll, use_compression_aug, use_multiscale_drift, use_hll_normalization" in text
    assert f"parameters: {sum(model_size.parameters(STFV8Config()).values()):,}" in text
    assert "multiply-adds per clip:" in text
    assert "32 frames of 224×224 px" in text
    assert "STFMambaV73" not in text


def test_describe_counts_every_module_of_v8():
    text = STFV8Config.phase_b().describe()
    assert "STF-Mamba V8.0-B" in text
    assert "wavelet-selective scan" in text
    assert "adaptive state" in text


def test_describe_says_that_a_timm_backbone_is_not_counted():
    text = STFV8Config(spatial_backbone="timm:convnextv2_atto").describe()
    assert "parameters, without timm:convnextv2_atto: " in text
    assert "stage 1" not in text


def test_describe_of_v73():
    assert "active features: none" in STFV8Config().describe()
