"""Hydra's core equals its matrix and its recurrence, is symmetric in time, and reads its states in part."""

import math
import sys
from types import ModuleType

import pytest
import torch
from torch.nn import functional as F

from stf.models.hydra_mixer import HydraQuasiseparableMixer, hydra_head_dim, odd_kernel
from stf.models.mamba_blocks import MambaVisionMixer
from stf.models.ssd import quasiseparable_matrix, quasiseparable_mix
from tests.reference import models_hydra_plain as plain
from tests.reference import models_mamba_ssm_fake as fake

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
N_STATES = 3


@pytest.fixture
def mixer():
    torch.manual_seed(0)
    module = HydraQuasiseparableMixer(d_model=12, d_state=N_STATES, d_conv=4).double()
    with torch.no_grad():  # heads that differ, and memories of 1 to 10 frames
        module.A_log.uniform_(-1, 1)
        module.D.uniform_(0.5, 1.5)
        module.dt_bias.uniform_(-2, 0)
    return module


def convolved(mixer, M=2, T=9):
    """Input of mix(): x, B and C side by side, and dt before softplus."""
    return [torch.randn(M, T, width).to(mixer.D) for width in mixer.widths[1:]]


def scan_inputs(M=2, T=5, H=2, P=3, dtype=torch.float64):
    """x, dt, A, B, C, diagonal, all with gradients."""
    dt = F.softplus(torch.randn(M, T, 2, H, dtype=dtype) - 1)
    B, C = (torch.randn(M, T, 2, N_STATES, dtype=dtype) for _ in range(2))
    x, diagonal = torch.randn(M, T, H, P, dtype=dtype), torch.randn(M, T, H, dtype=dtype)
    return [z.requires_grad_() for z in (x, dt, -torch.rand(H, dtype=dtype).exp(), B, C, diagonal)]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("T", [1, 2, 3, 9])
def test_the_matrix_equals_an_explicit_one(dtype, T):
    _, *inputs = scan_inputs(T=T, dtype=dtype)
    expected = plain.matrix(*(z.detach().double() for z in inputs))
    error = (quasiseparable_matrix(*inputs) - expected).abs().amax()
    assert error <= TOLERANCE[dtype] * max(1, expected.abs().amax())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("T", [1, 2, 9, 32])
@torch.no_grad()
def test_the_core_equals_its_matrix_and_its_recurrence(mixer, dtype, T):
    mixer.to(dtype)
    xBC, raw_dt = convolved(mixer, M=1 if T > 9 else 2, T=T)
    y = mixer.mix(xBC, raw_dt)
    x, *rest = plain.core_inputs(xBC.double(), raw_dt.double(), mixer.double())
    by_matrix = (plain.matrix(*rest) @ x.transpose(1, 2)).transpose(1, 2).flatten(2)
    by_steps = plain.mix(x, *rest).flatten(2)
    for expected in (by_matrix, by_steps):
        assert (y - expected).abs().amax() <= TOLERANCE[dtype] * max(1, expected.abs().amax())


@pytest.mark.parametrize("T", [1, 2, 10])
def test_the_mixer_and_its_gradients_equal_the_formula(mixer, T):
    x = torch.randn(3, T, 12, dtype=torch.float64)
    torch.testing.assert_close(mixer(x), plain.mixer(x, mixer), rtol=1e-10, atol=1e-11)
    names, leaves = zip(*mixer.named_parameters(), strict=True)
    grads = torch.autograd.grad(mixer(x).square().sum(), leaves, materialize_grads=True)
    expected = torch.autograd.grad(plain.mixer(x, mixer).square().sum(), leaves, materialize_grads=True)
    for name, grad, want in zip(names, grads, expected, strict=True):
        torch.testing.assert_close(grad, want, rtol=1e-8, atol=1e-10, msg=name)
        assert T < 3 or grad.abs().amax() > 0, name


def test_gradcheck():
    inputs = scan_inputs()
    assert torch.autograd.gradcheck(quasiseparable_mix, inputs)


@pytest.mark.parametrize("dt", [0.0, 1e-3, 300.0])
def test_extreme_step_sizes_stay_finite(dt):
    """Steps that softplus rounded to zero, and decays to nothing within a frame."""
    x, _, *rest = scan_inputs(T=8, dtype=torch.float32)
    leaves = [x, torch.full((2, 8, 2, 2), dt).requires_grad_(), *rest]
    y = quasiseparable_mix(*leaves)
    grads = torch.autograd.grad(y.sum(), leaves)
    assert all(z.isfinite().all() for z in (y, *grads))


def reversed_in_time(mixer):
    """The mixer with its directions' parameters swapped and its convolution kernel read backwards."""
    twin = HydraQuasiseparableMixer(12, N_STATES, d_conv=4).double()
    twin.load_state_dict(mixer.state_dict())
    E, H, N = 24, len(mixer.D), N_STATES
    of_x, of_B, of_C = range(E), range(E, E + 2 * N), range(E + 2 * N, E + 4 * N)
    swapped = [*of_x, *of_B[N:], *of_B[:N], *of_C[N:], *of_C[:N]]
    dt = range(2 * E + 4 * N, 2 * E + 4 * N + 2 * H)
    rows = [*range(E), *(E + i for i in swapped), *dt[H:], *dt[:H]]
    with torch.no_grad():
        twin.in_proj.weight.copy_(mixer.in_proj.weight[rows])
        twin.conv.weight.copy_(mixer.conv.weight[swapped].flip(-1))
        twin.conv.bias.copy_(mixer.conv.bias[swapped])
    return twin


def test_reversing_time_and_swapping_the_directions_reverses_the_output(mixer):
    x = torch.randn(3, 9, 12, dtype=torch.float64)
    twin = reversed_in_time(mixer)
    torch.testing.assert_close(twin(x.flip(1)).flip(1), mixer(x), rtol=1e-12, atol=1e-12)
    assert (mixer(x.flip(1)).flip(1) - mixer(x)).abs().amax() > 1e-3  # the swap is needed


def test_every_output_depends_on_every_input(mixer):
    T = 12
    xBC, raw_dt = convolved(mixer, M=1, T=T)
    x = torch.randn(1, T, 12, dtype=torch.float64)
    whole = torch.autograd.functional.jacobian(mixer, x)[0, :, :, 0]
    core = torch.autograd.functional.jacobian(lambda z: mixer.mix(z, raw_dt), xBC)[0, :, :, 0]
    for jacobian in (whole, core):
        strongest_TT = jacobian.abs().amax((1, 3))
        assert strongest_TT.shape == (T, T)
        assert (strongest_TT > 1e-9).all()


def test_sequences_do_not_mix(mixer):
    x = torch.randn(4, 6, 12, dtype=torch.float64)
    torch.testing.assert_close(mixer(x)[2:3], mixer(x[2:3]))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_all_states_open_is_the_mixer_itself_and_gradients_reach_the_weights(mixer, dtype):
    mixer.to(dtype)
    x = torch.randn(5, 8, 12, dtype=dtype)
    open_MN = torch.ones(5, N_STATES, dtype=dtype, requires_grad=True)
    y = mixer(x, open_MN)
    torch.testing.assert_close(y, mixer(x), rtol=1e-6, atol=1e-6)
    (grad,) = torch.autograd.grad(y.square().sum(), open_MN)
    assert (grad.abs() > 0).all()


def first_states(mixer, n):
    """The mixer whose state has only the first n of the given one's."""
    small = HydraQuasiseparableMixer(12, n, d_conv=4).double()
    E, N = 24, mixer.d_state
    kept = [*range(E), *(E + block * N + i for block in range(4) for i in range(n))]
    rows = [*range(E), *(E + i for i in kept), *range(2 * E + 4 * N, mixer.in_proj.out_features)]
    weights = dict(mixer.state_dict())
    weights["in_proj.weight"] = weights["in_proj.weight"][rows]
    weights |= {name: weights[name][kept] for name in ("conv.weight", "conv.bias")}
    small.load_state_dict(weights)
    return small, kept


def test_soft_weights_are_the_mixture_of_smaller_mixers(mixer):
    """The core is linear in C: w_n = Σ p_k over the sizes N_k > n; each sequence with a mixture of its own."""
    xBC, raw_dt = convolved(mixer, M=5)
    p = torch.rand(5, N_STATES, dtype=torch.float64).softmax(1)  # of the sizes 1, 2, 3
    mixture = 0
    for k in range(N_STATES):
        small, kept = first_states(mixer, k + 1)
        mixture = mixture + p[:, k, None, None] * small.mix(xBC[..., kept], raw_dt)
    open_MN = p.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(mixer.mix(xBC, raw_dt, open_MN), mixture, rtol=1e-11, atol=1e-12)
    assert (mixture - mixer.mix(xBC, raw_dt)).abs().amax() > 1e-3


@pytest.mark.parametrize("n", [1, 2])
def test_the_first_states_open_are_the_smaller_mixer(mixer, n):
    x = torch.randn(5, 8, 12, dtype=torch.float64)
    open_MN = (torch.arange(N_STATES) < n).double().expand(5, -1)
    torch.testing.assert_close(mixer(x, open_MN), first_states(mixer, n)[0](x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("d_model", "d_state"), [(16, 4), (16, 16), (64, 8), (64, 16), (384, 16)])
def test_half_the_parameters_of_mamba_vision(d_model, d_state):
    ours, theirs = (
        sum(p.numel() for p in kind(d_model, d_state, d_conv=4, expand=2).parameters())
        for kind in (HydraQuasiseparableMixer, MambaVisionMixer)
    )
    assert ours <= 0.55 * theirs


@pytest.mark.parametrize(
    ("d_inner", "P"), [(768, 64), (128, 32), (32, 8), (24, 6), (1536, 64), (10, 2), (3, 1)]
)
def test_head_dim(d_inner, P):
    assert hydra_head_dim(d_inner) == P
    assert d_inner % P == 0


@pytest.mark.parametrize(("d_conv", "taps"), [(1, 1), (2, 3), (3, 3), (4, 5), (7, 7)])
def test_the_kernel_is_rounded_up_to_odd_and_keeps_the_length(d_conv, taps):
    assert odd_kernel(d_conv) == taps
    mixer = HydraQuasiseparableMixer(8, 2, d_conv)
    assert mixer.conv.weight.shape[-1] == taps
    assert mixer(torch.randn(2, 6, 8)).shape == (2, 6, 8)


def test_state_space_parameters_are_marked_against_weight_decay(mixer):
    marked = {n for n, p in mixer.named_parameters() if getattr(p, "_no_weight_decay", False)}
    assert marked == {"A_log", "D", "dt_bias"}
    fresh = HydraQuasiseparableMixer(64)
    dt = F.softplus(fresh.dt_bias)
    assert 0.99e-3 <= dt.min() <= dt.max() <= 1.01e-1


@pytest.mark.parametrize("T", [1, 7, 70])
def test_mamba_ssms_kernel_gets_the_same_inputs(monkeypatch, mixer, T):
    """A fake of the package checks what it is given; the parameters are the torch backend's."""
    calls = []

    def recorded(x, dt, A, B, C, chunk_size, **settings):
        calls.append(chunk_size)
        return plain.chunk_scan(x, dt, A, B, C, chunk_size, **settings)

    fake.install(monkeypatch)
    module = ModuleType("mamba_ssm.ops.triton.ssd_combined")
    module.mamba_chunk_scan_combined = recorded
    monkeypatch.setitem(sys.modules, "mamba_ssm.ops.triton", ModuleType("mamba_ssm.ops.triton"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    by_kernel = HydraQuasiseparableMixer(12, N_STATES, d_conv=4, backend="mamba_ssm")
    by_kernel.load_state_dict(mixer.float().state_dict())
    x = torch.randn(3, T, 12)
    torch.testing.assert_close(by_kernel(x), mixer(x), rtol=1e-5, atol=1e-6)
    grads = [torch.autograd.grad(m(x).square().sum(), list(m.parameters())) for m in (by_kernel, mixer)]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert calls == [max(64, 2 ** math.ceil(math.log2(T)))] * 2


def test_under_autocast_the_matrix_stays_in_float32(mixer):
    x = torch.randn(3, 8, 12)
    mixer.float()
    with torch.autocast("cpu", torch.bfloat16):
        y = mixer(x)
    assert y.dtype == torch.bfloat16
    assert (y - mixer(x)).norm() < 0.02 * mixer(x).norm()


def test_two_square_tensors_per_head_are_stored_for_backward():
    M, T, H, P = 4, 32, 6, 40
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda z: kept.setdefault(z.untyped_storage().data_ptr(), z), lambda z: z
    ):
        quasiseparable_mix(*scan_inputs(M, T, H, P, torch.float32))
    squares = [z for z in kept.values() if z.untyped_storage().nbytes() == 4 * M * H * T * T]
    assert sum(z.shape[-2:] == (T, T) for z in squares) == 2
    assert all(z.untyped_storage().nbytes() <= 4 * M * T * H * P for z in kept.values())
