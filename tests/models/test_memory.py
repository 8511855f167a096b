"""What a full-size training step keeps for backward, counted on tensors without data: it fits 80 GB."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from stf.config import STFV8Config
from stf.models import scan
from stf.models.backbone_v73 import STFMambaV73

GIB = 2**30


def kept_bytes(bfloat16: bool) -> tuple[int, int]:
    """(all bytes saved for backward, the largest tensor's) of 16 clips of 32×224×224, parameters left out."""
    config, sizes = STFV8Config(), {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = STFMambaV73(config).train()
        own = {p.untyped_storage()._cdata for p in model.parameters()}
        alive = []  # a freed storage's address would be counted as another's

        def pack(x: torch.Tensor) -> torch.Tensor:
            storage = x.untyped_storage()
            if storage._cdata not in own:
                alive.append(x)
                sizes[storage._cdata] = storage.nbytes()
            return x

        video = torch.rand(config.batch_size, 3, config.num_frames, config.img_size, config.img_size)
        precision = torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16)
        with precision, torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            model(video)
    return sum(sizes.values()), max(sizes.values())


@pytest.mark.parametrize(("bfloat16", "limit_gib"), [(True, 30), (False, 48)])
def test_full_size_training_fits(monkeypatch, bfloat16, limit_gib):
    monkeypatch.setitem(
        scan.BLOCK_ELEMENTS, "cpu", 1 << 40
    )  # one block: the blocks do not change what is kept
    total, largest = kept_bytes(bfloat16)
    assert total < limit_gib * GIB
    every_tap = 16 * 32 * 56 * 56 * 9 * 96 * (2 if bfloat16 else 4)  # T·H·W·9·C, never to exist
    assert largest < every_tap
