"""A training step under bfloat16 autocast: finite, near float32's, and attention in torch's fused kernel."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from stf.config import PHASE_A_FLAGS, PHASE_B_FLAGS, STFV8Config
from stf.models.losses import STFV8Loss
from stf.models.network import build_network
from tests.reference.models_clips import pairs

PHASE_A = replace(STFV8Config.debug(), stage3_blocks=2, **dict.fromkeys(PHASE_A_FLAGS, True))
CONFIGS = {"phase A": PHASE_A, "phase B": replace(PHASE_A, **dict.fromkeys(PHASE_B_FLAGS, True))}


@pytest.fixture(params=CONFIGS)
def step(request):
    """(network, function of bfloat16 yes or no that gives the losses of four fixed clips)."""
    config = CONFIGS[request.param]
    torch.manual_seed(0)
    model, loss = build_network(config).eval(), STFV8Loss(config)  # eval: no dropout, so no random numbers
    video, labels = pairs(2, config.num_frames, config.img_size)

    def losses(bfloat16: bool) -> dict[str, torch.Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            return loss(model(video), labels)

    return model, losses


def test_losses_and_gradients_are_near_those_of_float32(step):
    model, losses = step
    gradients, totals = [], []
    for bfloat16 in (False, True):
        model.zero_grad()
        values = losses(bfloat16)
        values["total"].backward()
        totals.append(values)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    for name, exact in totals[0].items():
        torch.testing.assert_close(totals[1][name].float(), exact.float(), rtol=0.05, atol=0.02, msg=name)
    assert gradients[1].isfinite().all()
    assert F.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.98


class AttentionKernels(TorchDispatchMode):
    """Counts calls of torch's fused attention kernel for the CPU, which never makes the (L, L) matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += "scaled_dot_product_flash" in str(func)
        return func(*args, **(kwargs or {}))


def test_attention_runs_in_the_fused_kernel(step):
    model, losses = step
    blocks = sum(type(m).__name__ in ("TransformerBlock", "MamerBlock") for m in model.modules())
    with AttentionKernels() as kernels, torch.no_grad():
        losses(bfloat16=False)
    assert kernels.calls == blocks > 0
