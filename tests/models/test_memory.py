"""What a full-size training step keeps for backward, counted on tensors without data: it fits 80 GB."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from stf.config import STFV8Config
from stf.models import scan, snake_cpu
from stf.models.checkpointing import use_checkpointing
from stf.models.network import build_network

GIB = 2**30
BATCH = 16  # clips
A, B = STFV8Config.phase_a(), STFV8Config.phase_b()


@pytest.fixture(autouse=True)
def one_block(monkeypatch):
    """Blocks and chunks do not change what is stored for backward, but take time here."""
    monkeypatch.setitem(scan.BLOCK_ELEMENTS, "cpu", 1 << 40)
    monkeypatch.setattr(snake_cpu, "CHUNK_POSITIONS", 1 << 40)


def saved_bytes(config: STFV8Config, bfloat16: bool, checkpointing: bool) -> tuple[int, int]:
    """(all bytes saved for backward, the largest tensor's) of 16 clips of 32×224×224, parameters left out."""
    sizes = {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = build_network(config).train()
        use_checkpointing(model, checkpointing)
        own = {p.untyped_storage()._cdata for p in model.parameters()}
        alive = []  # a freed storage's address would be counted as another's

        def pack(x: torch.Tensor) -> torch.Tensor:
            storage = x.untyped_storage()
            if storage._cdata not in own:
                alive.append(x)
                sizes[storage._cdata] = storage.nbytes()
            return x

        video = torch.rand(BATCH, 3, config.num_frames, config.img_size, config.img_size)
        precision = torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16)
        with precision, torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            model(video)
    return sum(sizes.values()), max(sizes.values())


@pytest.mark.parametrize(
    ("config", "bfloat16", "checkpointing", "gib"),
    [
        pytest.param(A, True, False, 26.0, id="phase A, bfloat16", marks=pytest.mark.slow),
        pytest.param(A, True, True, 4.7, id="phase A, bfloat16, checkpointing"),
        pytest.param(B, True, False, 18.7, id="phase B, bfloat16"),
        pytest.param(B, True, True, 4.9, id="phase B, bfloat16, checkpointing", marks=pytest.mark.slow),
        pytest.param(A, False, False, 41.4, id="phase A, float32", marks=pytest.mark.slow),
    ],
)
def test_full_size_training_stores_the_bytes_in_the_docstrings(config, bfloat16, checkpointing, gib):
    """The figures of backbone_v73.py and checkpointing.py."""
    total, largest = saved_bytes(config, bfloat16, checkpointing)
    assert total / GIB == pytest.approx(gib, abs=0.1)
    every_tap = BATCH * 32 * 56 * 56 * 9 * 96 * (2 if bfloat16 else 4)  # T·H·W·9·C, must not be allocated
    assert largest < every_tap
