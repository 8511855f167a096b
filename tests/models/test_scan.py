"""The fast scan equals the plain one, forward and backward, in any block size, and stays in float32."""

import pytest
import torch

from stf.models import scan
from tests.reference import models_scan_plain as plain


def inputs(T=9, M=7, G=2, D=5, N=3, dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    u, dt = (torch.randn(T, M, G, D, dtype=dtype, generator=draw) for _ in range(2))
    B, C = (torch.randn(T, M, G, N, dtype=dtype, generator=draw) for _ in range(2))
    A = -torch.rand(G, D, N, dtype=dtype, generator=draw) - 0.1
    return [x.requires_grad_() for x in (u, torch.nn.functional.softplus(dt).detach(), A, B, C)]


@pytest.mark.parametrize("block", [1, 100, 1 << 16])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
def test_equals_the_plain_scan_and_its_gradients(monkeypatch, block, dtype, tolerance):
    monkeypatch.setitem(scan.BLOCK_ELEMENTS, "cpu", block)
    leaves = inputs(dtype=dtype)
    weight = torch.randn(leaves[0].shape, dtype=dtype)
    y, y_plain = scan.selective_scan(*leaves), plain.selective_scan(*leaves)
    torch.testing.assert_close(y, y_plain, rtol=tolerance, atol=tolerance)
    grads = torch.autograd.grad((y * weight).sum(), leaves)
    grads_plain = torch.autograd.grad((y_plain * weight).sum(), leaves)
    for name, grad, grad_plain in zip(["u", "dt", "A", "B", "C"], grads, grads_plain, strict=True):
        torch.testing.assert_close(grad, grad_plain, rtol=tolerance, atol=10 * tolerance, msg=name)


def test_gradients_by_finite_differences():
    assert torch.autograd.gradcheck(scan.selective_scan, inputs(T=4, M=2, G=1, D=2, N=2))


def test_is_causal():
    leaves = [x.detach() for x in inputs()]
    y = scan.selective_scan(*leaves)
    leaves[0][5] += 1
    changed = (scan.selective_scan(*leaves) - y).abs().amax((1, 2, 3))
    assert (changed[:5] == 0).all()
    assert (changed[5:] > 0).all()


def test_one_step_has_no_memory():
    u, dt, A, B, C = inputs(T=1)
    y = scan.selective_scan(u, dt, A, B, C)
    torch.testing.assert_close(y, (B * C).sum(-1, keepdim=True) * dt * u)
    y.sum().backward()
    assert (A.grad == 0).all()


def test_bfloat16_inputs_are_scanned_in_float32():
    leaves = [x.detach() for x in inputs(dtype=torch.float32)]
    rounded = [x if i == 2 else x.bfloat16() for i, x in enumerate(leaves)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = scan.selective_scan(*rounded)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, plain.selective_scan(*(x.float() for x in rounded)), rtol=1e-4, atol=1e-5)


def test_gradients_are_bit_identical_over_runs():
    leaves = inputs(T=16, M=64, D=32, N=8, dtype=torch.float32)
    runs = [torch.autograd.grad(scan.selective_scan(*leaves).square().sum(), leaves) for _ in range(3)]
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))
