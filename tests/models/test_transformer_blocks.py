"""TransformerBlock attends as the formula says; the position code differs from token to token."""

import torch

from stf.models.transformer_blocks import TransformerBlock, position_code


def attention_plain(block: TransformerBlock, x_BLD: torch.Tensor) -> torch.Tensor:
    """softmax(QKᵀ/√d)·V, head by head."""
    q, k, v = (x_BLD @ block.qkv.weight.T + block.qkv.bias).chunk(3, -1)
    width, heads = x_BLD.shape[2] // block.num_heads, []
    for h in range(block.num_heads):
        one = slice(h * width, (h + 1) * width)
        weight = torch.softmax(q[..., one] @ k[..., one].mT * width**-0.5, -1)
        heads.append(weight @ v[..., one])
    return torch.cat(heads, -1) @ block.out.weight.T + block.out.bias


def test_attention_equals_its_formula():
    torch.manual_seed(0)
    block = TransformerBlock(12, num_heads=3, mlp_ratio=2.0).double()
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    torch.testing.assert_close(block.attend(x), attention_plain(block, x), rtol=1e-10, atol=1e-12)


def test_the_block_is_residual_and_global():
    torch.manual_seed(0)
    block = TransformerBlock(12, num_heads=3, mlp_ratio=2.0).eval()
    x = torch.randn(2, 7, 12)
    y = x.clone()
    y[1, 3, 0] += 1
    changed = (block(x) - block(y)).abs().amax(-1) > 0
    assert changed.tolist() == [[False] * 7, [True] * 7]
    for parameter in (*block.out.parameters(), *block.mlp.fc2.parameters()):
        torch.nn.init.zeros_(parameter)
    assert torch.equal(block(x), x)


def test_every_position_has_its_own_code():
    for dim in (16, 64, 384):
        code = position_code((32, 7, 7), dim).flatten(0, 2)
        assert code.shape == (32 * 49, dim)
        distance = torch.cdist(code, code) + 10 * torch.eye(len(code))
        assert distance.min() > 1e-2, dim


def test_the_code_of_a_position_does_not_depend_on_the_clip():
    torch.testing.assert_close(position_code((4, 3, 2), 24), position_code((8, 5, 6), 24)[:4, :3, :2])
