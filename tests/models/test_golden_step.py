"""One training step of the debug network reproduces stored numbers exactly."""

import json
from pathlib import Path

import pytest
import torch

from stf.config import STFV8Config
from stf.models.backbone_v73 import STFMambaV73
from stf.models.losses import STFV8Loss
from tests.reference.models_clips import pairs

GOLDEN = Path(__file__).parents[1] / "golden" / "step_v73.json"
ADVICE = (
    "If network, loss or initialisation were meant to change what a step computes, run "
    "`PYTHONPATH=. python tests/models/test_golden_step.py` "
    "and say so in the commit; otherwise a change that should have been neutral is not."
)


def one_step() -> dict[str, float]:
    """Losses before and after one AdamW step on four fixed clips, and what the step did to the weights."""
    config = STFV8Config.debug()
    config.use_contrastive_hll = config.use_hll_normalization = True
    torch.manual_seed(0)
    model, loss = STFMambaV73(config).eval(), STFV8Loss(config)  # eval: no dropout, so no random numbers
    optimizer = torch.optim.AdamW([*model.parameters(), *loss.parameters()], lr=1e-3)
    video, labels = pairs(2, config.num_frames, config.img_size, strength=0.01)
    first = loss(model(video), labels)
    first["total"].backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    optimizer.step()
    second = loss(model(video), labels)
    return {
        "ce": first["ce"].item(),
        "hll": first["hll"].item(),
        "gradient_norm": norm.item(),
        "total_after": second["total"].item(),
        "margin_after": loss.diagnostics()["margin"],
        "weights_after": sum(p.detach().double().abs().sum().item() for p in model.parameters()),
    }


def test_one_training_step_matches_the_golden_values():
    golden = json.loads(GOLDEN.read_text())
    assert one_step() == pytest.approx(golden, rel=2e-3), ADVICE


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(one_step(), indent=2) + "\n")
