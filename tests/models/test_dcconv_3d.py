"""DCConv3D starts as three straight convolutions, equals its definition when bent, and is deterministic."""

import pytest
import torch
from torch import nn

from stf.models import snake_cpu
from stf.models.dcconv_3d import DCConv3D, DCConv3DBlock, SnakeOnPlanes
from stf.models.snake_cpu import SnakeOnCPU
from stf.models.trilinear import cells_of, corners, inside, sample, scatter, slopes
from tests.reference import models_snake_plain as plain


def bent(channels=3, context=4, kernel_length=9, spread=1.0) -> DCConv3D:
    torch.manual_seed(0)
    module = DCConv3D(channels, context, kernel_length).double()
    nn.init.normal_(module.steps.weight, std=spread)
    nn.init.normal_(module.steps.bias, std=spread)
    nn.init.normal_(module.bias)
    return module


def features(channels=3, context=4, shape=(2, 6, 7, 5)):
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(*shape, c, dtype=torch.float64, generator=draw) for c in (channels, context)]


def test_starts_as_straight_convolutions_with_replicated_borders():
    torch.manual_seed(0)
    module, (x, context) = DCConv3D(3, 4).double(), features(shape=(2, 12, 11, 10))
    y = module(x, context).movedim(-1, 1).chunk(3, dim=1)
    for axis, kernel in enumerate([(9, 1, 1), (1, 9, 1), (1, 1, 9)]):
        padding = tuple(k // 2 for k in kernel)
        straight = nn.Conv3d(3, 3, kernel, padding=padding, padding_mode="replicate", bias=False).double()
        with torch.no_grad():
            straight.weight.copy_(module.weight[axis].permute(1, 2, 0).view(3, 3, *kernel))
        torch.testing.assert_close(y[axis], straight(x.movedim(-1, 1)), rtol=1e-9, atol=1e-9)


def test_straight_in_float32_too():
    """The positions are rounded, the result stays within 1e-4 of the convolution at the full size's 56 px."""
    torch.manual_seed(0)
    module = DCConv3D(2, 2)
    x = torch.randn(1, 8, 56, 56, 2)
    y = module(x, x)[..., 4:].movedim(-1, 1)  # the snakes along x
    weight = module.weight[2].permute(1, 2, 0).view(2, 2, 1, 1, 9)
    padded = nn.functional.pad(x.movedim(-1, 1), (4, 4, 0, 0, 0, 0), mode="replicate")
    torch.testing.assert_close(y, nn.functional.conv3d(padded, weight), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kernel_length", [3, 9])
def test_equals_its_definition_when_bent(kernel_length):
    module, (x, context) = bent(kernel_length=kernel_length), features()
    torch.testing.assert_close(module(x, context), plain.snake(x, context, module), rtol=1e-9, atol=1e-9)


def test_gradients_equal_those_of_the_definition():
    module, (x, context) = bent(), features()
    leaves = [x.requires_grad_(), context.requires_grad_(), *module.parameters()]
    weight = torch.randn(2, 6, 7, 5, 9, dtype=torch.float64)
    grads = torch.autograd.grad((module(x, context) * weight).sum(), leaves)
    expected = torch.autograd.grad((plain.snake(x, context, module) * weight).sum(), leaves)
    for grad, want in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, want, rtol=1e-7, atol=1e-8)
        assert grad.abs().amax() > 0


def test_a_step_is_at_most_a_pixel_and_steps_add_up():
    """With every step saturated towards higher x, tap n of the snake along t reads n pixels to the right."""
    module, (x, context) = bent(channels=1), features(channels=1, shape=(1, 10, 4, 12))
    nn.init.zeros_(module.steps.weight)
    nn.init.zeros_(module.bias)
    with torch.no_grad():
        module.steps.bias.view(3, 2, 4, 3).copy_(torch.tensor([50.0, 0, 0]).expand(3, 2, 4, 3))
        module.weight.zero_()
        module.weight[0, 4 + 3] = 1.0  # third tap of the arm towards later frames
    y = module(x, context)[..., 0]
    torch.testing.assert_close(y[:, :-3, :, :-3], x[:, 3:, :, 3:, 0])


def test_gradients_are_bit_identical_over_runs_and_batches_do_not_mix():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        module, (x, context) = bent(channels=8).float(), features(channels=8, shape=(4, 4, 6, 6))
        x, context = x.float().requires_grad_(), context.float().requires_grad_()
        leaves = [x, context, *module.parameters()]
        runs = [torch.autograd.grad(module(x, context).square().sum(), leaves) for _ in range(3)]
        for other in runs[1:]:
            assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))
        torch.testing.assert_close(module(x, context)[1:2], module(x[1:2], context[1:2]))
    finally:
        torch.set_num_threads(threads)


def test_positions_stay_float32_under_autocast():
    module, (x, context) = bent().float(), (f.float() for f in features())
    expected = module(x, context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x, context)
    assert y.dtype == torch.float32
    assert (y - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_the_block_is_residual_and_trains_every_weight():
    torch.manual_seed(0)
    block = DCConv3DBlock(16)
    x = torch.randn(2, 8, 8, 8, 16)
    y = block(x)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert [n for n, p in block.named_parameters() if not p.grad.any()] == []
    nn.init.zeros_(block.expand.weight)
    nn.init.zeros_(block.expand.bias)
    assert torch.equal(block(x), x)


def snake_inputs(shape=(3, 6, 7, 5), channels=3):
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(*shape, channels, generator=draw, dtype=torch.float64)
    weight = torch.randn(3, 9, channels, channels, generator=draw, dtype=torch.float64)
    return x, weight, torch.randn(3, 2, 4, 3, *shape, generator=draw, dtype=torch.float64)


def on_planes(x, weight, raw_steps):
    """The operator that a GPU runs, on the CPU."""
    return SnakeOnPlanes.apply(x.movedim(-1, 1).contiguous(), weight, raw_steps).movedim(1, -1)


def value_and_gradients(snake, inputs):
    leaves = [x.clone().requires_grad_() for x in inputs]
    y = snake(*leaves)
    scale = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return [y.detach(), *torch.autograd.grad((y * scale).sum(), leaves)]


def test_rows_and_planes_are_one_operator():
    """What runs on a CPU and what runs on a GPU, value and gradients."""
    inputs = snake_inputs()
    rows, planes = (value_and_gradients(snake, inputs) for snake in (SnakeOnCPU.apply, on_planes))
    for ours, theirs in zip(rows, planes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_chunks_change_no_value(monkeypatch):
    inputs = snake_inputs()
    whole = value_and_gradients(SnakeOnCPU.apply, inputs)
    monkeypatch.setattr(snake_cpu, "CHUNK_POSITIONS", 1)  # a clip at a time
    for ours, one_by_one in zip(whole, value_and_gradients(SnakeOnCPU.apply, inputs), strict=True):
        torch.testing.assert_close(ours, one_by_one, rtol=1e-12, atol=1e-12)


def test_scatter_is_the_adjoint_of_sample_and_slopes_its_derivative():
    draw = torch.Generator().manual_seed(4)
    places = torch.rand(3, 2, 4, 5, 6, generator=draw, dtype=torch.float64) * 8 - 1.5  # some outside
    cells, n = cells_of(places), 2 * 4 * 5 * 6
    table, grad = (torch.randn(n, 3, generator=draw, dtype=torch.float64) for _ in range(2))
    there = (sample(table, *corners(cells)) * grad).sum()
    torch.testing.assert_close(there, (scatter(grad, *corners(cells)) * table).sum())
    step = 1e-6
    for axis in range(3):
        moved = places.clone()
        moved[axis] += step
        change = sample(table, *corners(cells_of(moved))) - sample(table, *corners(cells))
        expected = (change * grad).sum(1) / step
        slope = (slopes(table, cells, grad)[axis].view(places.shape[1:]) * inside(places)[axis]).flatten()
        torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-6)


def test_nan_stays_nan():
    """A diverged network must reach the loss, where it is reported."""
    module, (x, context) = bent(), features()
    context[0] = torch.nan
    y = module(x, context)
    assert y[0].isnan().any()
    assert y[1].isfinite().all()
