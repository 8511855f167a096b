"""Counts of parameters and multiply-adds: of the network itself, equal to what is worked out by hand for some parts."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from stf.config import FLAGS, PHASE_B_FLAGS, STFV8Config
from stf.errors import ConfigError
from stf.models.network import build_network
from stf.models.size import multiply_adds, parameters

DEBUG = STFV8Config.debug()
TIMM = replace(DEBUG, spatial_backbone="timm:test_convnext")
WIDTHS = {f"stage{i}_dim": 8192 for i in (1, 2, 3, 4)}
UPGRADES = [
    dict.fromkeys(flags, True) for n in range(5) for flags in itertools.combinations(PHASE_B_FLAGS, n)
]
BUILT = [
    *(replace(DEBUG, **flags) for flags in UPGRADES),
    *(replace(TIMM, **flags) for flags in (UPGRADES[0], UPGRADES[-1])),
    replace(DEBUG, ssm_backend="conv1d", use_mamer=True, use_wss=True),
]


@pytest.mark.parametrize("config", BUILT, ids=lambda c: f"{c.variant()}-{c.spatial_backbone}-{c.ssm_backend}")
def test_parts_add_up_to_the_network(config: STFV8Config) -> None:
    network = build_network(config)
    assert sum(parameters(config).values()) == sum(p.numel() for p in network.parameters())
    assert min(multiply_adds(config).values()) > 0
    assert list(parameters(config)) == list(multiply_adds(config))


@pytest.mark.parametrize("flags", [(), ("use_hydra", "use_mamer", "use_adaptive_sdim")])
def test_shapes_alone_are_counted_as_a_real_clip_is(flags: tuple[str, ...]) -> None:
    """W-SS is left out: on the CPU torch does not count its GRU."""
    config = replace(DEBUG, **dict.fromkeys(flags, True))
    network, video = build_network(config).eval(), torch.rand(1, 3, 8, 32, 32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(video)
    assert sum(multiply_adds(config).values()) == counter.get_total_flops() // 2


def test_parameters_of_some_parts_by_hand() -> None:
    counts = parameters(STFV8Config.phase_b())
    assert counts["energies"] == 192 * 64
    assert counts["adaptive state"] == (5 + 1) * 4
    assert counts["head"] == 2 * 384 + (2 * 384 + 1) * 2
    # a GRU of two directions, its gate; texture, normed energies of 8 bands → 64 → 64; projection
    gru, gate = 2 * (3 * 64 * (64 + 64) + 2 * 3 * 64), (2 * 64 + 1) * 64
    texture, bands = (2 * 64 + 1) * 64, 2 * 8 * 64 + (8 * 64 + 1) * 64 + (64 + 1) * 64
    assert counts["wavelet-selective scan"] == gru + gate + texture + bands + 64 * 192


def test_multiply_adds_of_some_parts_by_hand() -> None:
    work = multiply_adds(STFV8Config.phase_b())
    # stem: 7×7 convolution of stride 4, three frames, nine residuals, at 32·56·56 positions
    assert work["stem"] == 32 * 56**2 * (7 * 7 * 3 * 48 + 3 * 48 * 48 + 9 * 48)
    # stage 2: patches of four; per block reduce 192 → 24, three snakes of nine taps, their steps, expand 72 → 192
    block = 192 * 24 + 3 * 9 * 24**2 + 192 * 3 * 8 * 3 + 72 * 192
    assert work["stage 2"] == 32 * 28**2 * (4 * 96 * 192 + 2 * block)
    # stage 4: patches of four; per block q, k, v, out, MLP of twice the width, and every token with every other
    tokens = 32 * 7 * 7
    assert work["stage 4"] == tokens * (4 * 384 * 384 + 2 * (4 * 384**2 + 2 * 384 * 768 + 2 * tokens * 384))
    assert work["head"] == 2 * 384 * 2


def test_a_flag_changes_only_the_parts_that_it_adds_or_replaces() -> None:
    v73, hydra = parameters(STFV8Config()), parameters(STFV8Config(use_hydra=True))
    assert {part for part in v73 if v73[part] != hydra[part]} == {"stage 3"}
    assert hydra["stage 3"] < v73["stage 3"]


def test_counting_draws_no_random_numbers_and_leaves_real_networks_alone() -> None:
    """Caches of wavelet and interpolation rows are filled per device."""
    config, video = replace(DEBUG, **dict.fromkeys(FLAGS, True)), torch.rand(1, 3, 8, 32, 32)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for counted in (config, TIMM):
        multiply_adds(counted)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    out = build_network(config).eval()(video)
    assert all(value.device.type == "cpu" and value.isfinite().all() for value in out.values())


@pytest.mark.parametrize("changes", [WIDTHS, {"d_state": 4096, "ssm_expand": 16, "stage3_dim": 8192}])
def test_a_network_that_is_too_large_is_refused_before_it_is_built(changes: dict[str, int]) -> None:
    config = STFV8Config(**changes)
    for function in (build_network, parameters, STFV8Config.describe):
        with pytest.raises(ConfigError, match="parameters; at most 4e\\+09 are built: lower the widths"):
            function(config)


def test_describe_reports_features_parameters_and_work() -> None:
    text = STFV8Config.phase_a().describe()
    assert "STF-Mamba A" in text
    assert "use_contrastive_hll, use_compression_aug, use_multiscale_drift, use_hll_normalization" in text
    assert "parameters: 13,602,034 (stem 14,736, " in text
    assert "multiply-adds per clip: 83.26 G (stem 1.45 G, " in text
    assert "32 frames of 224×224 px" in text
    assert "STFMambaV73" not in text
    assert "active features: none" in STFV8Config().describe()


def test_describe_counts_every_module_of_v8() -> None:
    text = STFV8Config.phase_b().describe()
    assert "STF-Mamba B" in text
    assert "wavelet-selective scan" in text
    assert "adaptive state" in text


def test_describe_counts_a_timm_backbone_without_its_weights() -> None:
    text = STFV8Config(spatial_backbone="timm:convnextv2_atto").describe()
    assert "(timm backbone 174,312, " in text
    assert "stage 1" not in text
