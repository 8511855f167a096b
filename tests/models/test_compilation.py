"""Compiled blocks compute what they did, keep the weights' names, and a machine that cannot compile is refused."""

import copy
import shutil
from dataclasses import replace

import pytest
import torch

from stf.config import PHASE_B_FLAGS, STFV8Config
from stf.errors import ConfigError
from stf.models.checkpointing import use_checkpointing
from stf.models.compilation import compile_blocks
from stf.models.losses import STFV8Loss
from stf.models.network import build_network
from tests.reference.models_clips import pairs

V80 = replace(STFV8Config.debug(), **dict.fromkeys(PHASE_B_FLAGS, True))


def test_without_a_compiler_compilation_is_refused_before_training(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match="C\\+\\+ compiler no-such-compiler"):
        compile_blocks(build_network(V80), "cpu")
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"triton|C compiler no-such-compiler"):
        compile_blocks(build_network(V80), "cuda")


def test_stem_and_blocks_are_what_is_compiled_and_keep_their_names(monkeypatch):
    """With a stand-in for the compiler, which takes a minute."""
    calls = []

    def compiled(function):
        return lambda *inputs: (calls.append(function), function(*inputs))[1]

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setenv("CXX", "true")
    model = build_network(V80).eval()
    names, (video, _) = list(model.state_dict()), pairs(1, V80.num_frames, V80.img_size)
    with torch.no_grad():
        expected = model(video)["logits"]
        compile_blocks(model, "cpu")
        assert torch.equal(model(video)["logits"], expected)
    n_blocks = sum(getattr(V80, f"stage{stage}_blocks") for stage in (1, 2, 3, 4))
    assert len(calls) == len(set(calls)) == 1 + n_blocks
    assert list(model.state_dict()) == names


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_losses_gradients_and_names_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.manual_seed(0)
    model, loss = build_network(V80).eval(), STFV8Loss(V80)  # eval: no dropout, so no random numbers
    compiled = copy.deepcopy(model)
    compile_blocks(compiled, "cpu")
    use_checkpointing(compiled)
    video, labels = pairs(2, V80.num_frames, V80.img_size)
    totals = []
    for network in (model, compiled):
        total = loss(network(video), labels)["total"]
        total.backward()
        totals.append(total)
    torch.testing.assert_close(totals[1], totals[0])
    for (name, expected), (compiled_name, got) in zip(
        model.named_parameters(), compiled.named_parameters(), strict=True
    ):
        assert name == compiled_name
        if expected.grad is not None:
            torch.testing.assert_close(got.grad, expected.grad, rtol=1e-3, atol=1e-5, msg=name)
