"""All 256 combinations of the eight flags, in either phase: each builds and takes one finite training step, and each
flag alone changes parameters, loss or clips. `make test` takes no flag, each alone, all but one and all, among which
any two flags are tried off, on, and one without the other; `make test-all` tries the rest."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch

from stf.config import FLAGS, PHASE_A_FLAGS, PHASE_B_FLAGS, Params, STFV8Config
from stf.data.video_sbi_dataset import PairBatchSampler, VideoSBIDataset, make_loader
from stf.models.checkpoint import load_checkpoint_flexible, save_checkpoint
from stf.models.losses import STFV8Loss
from stf.models.network import build_network
from stf.training.step import Batch, train_step
from stf.training.train_state import build_train_state

COMBINATIONS = [
    tuple(itertools.compress(FLAGS, chosen)) for chosen in itertools.product((0, 1), repeat=len(FLAGS))
]
FEW_OR_MANY = [flags for flags in COMBINATIONS if not 1 < len(flags) < len(FLAGS) - 1]
DATA_FLAGS = ("use_compression_aug", "use_multiscale_drift")
LOSS_FLAGS = ("use_contrastive_hll", "use_hll_normalization")
PARAMS = Params.load("profiles/sample.yaml")


def debug_config(flags: tuple[str, ...], phase: str = "a") -> STFV8Config:
    """The debug network under `flags`, with the learning rate of a phase of the sample's profile."""
    lr = STFV8Config.from_params(PARAMS, "b" if phase == "b" else "a").lr
    return replace(STFV8Config.debug(), lr=lr, **dict.fromkeys(flags, True))


@pytest.fixture(scope="module")
def batches(shared_tree) -> dict[tuple[bool, bool], dict[str, Any]]:
    """(compression, drift) → the first batch of that recipe."""
    made = {}
    for compression, drift in itertools.product((False, True), repeat=2):
        config = replace(
            STFV8Config.debug(),
            data_root=str(shared_tree),
            use_compression_aug=compression,
            use_multiscale_drift=drift,
        )
        # A codec on every pair: with one on half of them, two pairs could both be spared.
        sbi = replace(PARAMS.sbi, compression_probability=1.0)
        data = VideoSBIDataset("train", config, sbi=sbi)
        sampler = PairBatchSampler(data.n_pairs, config.batch_size, seed=0, shuffle=False)
        made[compression, drift] = Batch(**next(iter(make_loader(data, sampler, 0))))
    return made


@pytest.fixture(scope="module")
def phase_a_weights(tmp_path_factory):
    """What phase B starts from: the weights of phase A's network."""
    config = debug_config(PHASE_A_FLAGS)
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("phase_a") / "phase_a.safetensors"
    save_checkpoint(path, build_network(config), config=config, epoch=1)
    return path


@pytest.mark.parametrize("phase", ["a", "b"])
@pytest.mark.parametrize(
    "flags",
    [pytest.param(f, marks=[] if f in FEW_OR_MANY else pytest.mark.slow) for f in COMBINATIONS],
    ids=lambda f: "+".join(n[4:] for n in f) or "none",
)
def test_every_combination_trains_a_finite_step(flags, phase, batches, phase_a_weights):
    config = debug_config(flags, phase)
    torch.manual_seed(0)
    model = build_network(config)
    if phase == "b":
        load_checkpoint_flexible(phase_a_weights, model)
    train_state = build_train_state(model, config, PARAMS.training, epochs=1, steps_per_epoch=2, device="cpu")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = batches[config.use_compression_aug, config.use_multiscale_drift]
    figures = train_step(train_state, [batch], "a test")
    assert torch.isfinite(torch.tensor([figures.loss, figures.ce, figures.hll, figures.grad_norm])).all()
    after = model.state_dict()
    assert all(value.isfinite().all() for value in after.values())
    assert any(not torch.equal(value, before[name]) for name, value in after.items())


def test_make_test_covers_any_two_flags_in_every_state():
    for first, second in itertools.combinations(FLAGS, 2):
        assert {(first in flags, second in flags) for flags in FEW_OR_MANY} == {
            (False, False), (False, True), (True, False), (True, True)
        }  # fmt: skip


@pytest.mark.parametrize("flag", DATA_FLAGS)
def test_a_data_flag_alone_changes_the_clips(flag, batches):
    changed = batches[flag == DATA_FLAGS[0], flag == DATA_FLAGS[1]]
    assert not torch.equal(changed.video, batches[False, False].video)
    assert torch.equal(changed.label, batches[False, False].label)


def loss_of(config: STFV8Config) -> float:
    generator = torch.Generator().manual_seed(0)
    out = {
        "logits": torch.randn(8, 2, generator=generator),
        "hll_energy": torch.rand(8, generator=generator),
        "all_band_energy": torch.rand(8, generator=generator) + 1,
    }
    return STFV8Loss(config)(out, torch.tensor([0, 1] * 4))["total"].item()


@pytest.mark.parametrize("flag", LOSS_FLAGS)
def test_a_loss_flag_changes_the_loss_alone_and_beside_the_other(flag):
    other = next(name for name in LOSS_FLAGS if name != flag)
    for base in ((), (other,)):
        assert loss_of(debug_config((*base, flag))) != loss_of(debug_config(base))


@pytest.mark.parametrize("flag", PHASE_B_FLAGS)
def test_a_network_flag_alone_changes_the_parameters(flag):
    plain, upgraded = (build_network(debug_config(flags)).state_dict() for flags in ((), (flag,)))
    shapes = [{name: value.shape for name, value in weights.items()} for weights in (plain, upgraded)]
    assert shapes[0] != shapes[1]
