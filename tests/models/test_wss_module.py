"""W-SS: equals its plain twin; closed gates silence texture, where and when closed; phase A's function first."""

import copy

import pytest
import torch
from torch import Tensor, nn

from stf.models.dwt_3d import BANDS, STF3DDWTModule, dwt_3d
from stf.models.wss_module import (
    SpatialTextureStream,
    TemporalFlickerStream,
    WaveletSelectiveScan,
    log_energy,
)
from tests.reference import models_wss_plain as plain

D, C, K = 6, 4, 5


def features(B: int = 2, T: int = 16, side: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(B, T, side, side, D, generator=torch.Generator().manual_seed(seed))


def bands_of(x: Tensor, seed: int = 1) -> dict[str, Tensor]:
    mix = torch.randn(D, C, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    return dwt_3d(x @ mix.to(x.dtype))


@pytest.fixture
def open_module() -> WaveletSelectiveScan:
    """With an output projection that is not zero any more."""
    torch.manual_seed(3)
    module = WaveletSelectiveScan(D, C, K)
    nn.init.normal_(module.project.weight)
    return module


@pytest.mark.parametrize(("T", "side"), [(8, 4), (16, 6)])
def test_equals_the_plain_twin(open_module: WaveletSelectiveScan, T: int, side: int) -> None:
    module, x = open_module.double(), features(2, T, side).double()
    bands = bands_of(x)
    ours = module(x, bands)
    for b in range(2):
        theirs = plain.forward(module, x[b], {name: band[b] for name, band in bands.items()})
        torch.testing.assert_close(ours[b], theirs, rtol=1e-10, atol=1e-10)


def test_off_is_the_identity_and_has_no_parameters() -> None:
    x, off = features(), WaveletSelectiveScan(D, C, K, use_wss=False)
    assert off(x, {}) is x
    assert not list(off.parameters())
    assert not off.state_dict()


def test_a_new_module_does_not_change_the_features() -> None:
    x = features()
    assert torch.equal(WaveletSelectiveScan(D, C, K)(x, bands_of(x)), x)


def test_gradient_reaches_the_projection_at_once_and_every_parameter_after_one_step() -> None:
    torch.manual_seed(0)
    module, x = WaveletSelectiveScan(D, C, K), features()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    reached = []
    for _ in range(2):
        optimizer.zero_grad()
        module(x, bands_of(x)).square().sum().backward()
        moved = (n for n, p in module.named_parameters() if p.grad is not None and bool((p.grad != 0).any()))
        reached.append(set(moved))
        optimizer.step()
    assert reached[0] == {"project.weight"}
    assert reached[1] == {name for name, _ in module.named_parameters()}


def test_gradient_reaches_every_band(open_module: WaveletSelectiveScan) -> None:
    x = features()
    bands = {name: band.requires_grad_() for name, band in bands_of(x).items()}
    open_module(x, bands).square().sum().backward()
    for name in BANDS:
        gradient = bands[name].grad
        assert gradient is not None
        assert (gradient[:, 1:-1] != 0).all(), name
        assert (gradient[:, [0, -1]] == 0).all(), f"{name}: the wrapped ends are left out"


def test_texture_is_silent_where_the_flicker_gate_is_closed(open_module: WaveletSelectiveScan) -> None:
    x = features()
    bands = bands_of(x)
    assert (open_module(x, bands) - x).abs().mean() > 0.1
    with torch.no_grad():
        open_module.temporal.gate.bias.fill_(-1e4)
    assert torch.equal(open_module(x, bands), x)


def test_a_channel_whose_gate_is_closed_is_silent_alone(open_module: WaveletSelectiveScan) -> None:
    x = features()
    bands = bands_of(x)
    without = copy.deepcopy(open_module)
    with torch.no_grad():
        open_module.temporal.gate.bias[2] = -1e4
        without.project.weight[:, 2] = 0
    torch.testing.assert_close(open_module(x, bands), without(x, bands))


@pytest.mark.parametrize("closed", [{2, 3, 4}, {1}, {1, 2, 3, 4, 5, 6}, {5, 6}])
def test_a_gate_closed_at_some_times_silences_those_times(
    open_module: WaveletSelectiveScan, monkeypatch: pytest.MonkeyPatch, closed: set[int]
) -> None:
    """Frame t reads the one or two kept coefficients next to it (i at 2i + 0.5): silent when all of them are closed."""
    T = 16
    logits = torch.zeros(1, T // 2 - 2, K)
    logits[:, [i - 1 for i in closed]] = -1e4
    monkeypatch.setattr(open_module.temporal, "forward", lambda hll: logits.expand(len(hll), -1, -1))
    x = features(2, T)
    changed = (open_module(x, bands_of(x)) - x).abs().amax((0, 2, 3, 4)) > 0
    for t in range(T):
        position = min(max((t - 0.5) / 2, 1), T // 2 - 2)
        read = {int(position), min(int(position) + 1, T // 2 - 2)} if position % 1 else {int(position)}
        assert bool(changed[t]) == (not read <= closed), t


def test_the_gate_opens_and_closes_with_flicker_in_time() -> None:
    """A GRU in which only the first half of the clip flickers separates its times; both directions are read."""
    torch.manual_seed(0)
    stream = TemporalFlickerStream(C, K)
    hll = torch.zeros(1, 12, 4, 4, C)
    hll[:, :6] = torch.randn(1, 6, 4, 4, C)
    gates = torch.sigmoid(stream(hll))
    assert (gates[:, 0] - gates[:, -1]).abs().max() > 0.02
    for moved in (0, 11):
        other = hll.clone()
        other[:, moved] += 1
        assert ((torch.sigmoid(stream(other)) - gates).abs().amax(-1) > 0).all(), (
            "every time hears every other"
        )


def test_the_flicker_stream_reads_energy_not_sign_nor_position() -> None:
    stream, hll = TemporalFlickerStream(C, K), torch.randn(2, 6, 4, 4, C)
    signs = torch.randint(0, 2, hll.shape) * 2 - 1
    shuffled = (hll * signs).flatten(2, 3)[:, :, torch.randperm(16)].unflatten(2, (4, 4))
    torch.testing.assert_close(stream(shuffled), stream(hll))


def test_texture_reads_hhh_and_hlh_and_the_energies_of_the_rest() -> None:
    """Moved within a band other than those two, values change nothing; scaled, every band does."""
    torch.manual_seed(0)
    stream = SpatialTextureStream(C, K)
    bands = {name: torch.randn(1, 6, 4, 4, C) for name in BANDS}
    plain_texture = stream(bands)
    for name in BANDS:
        moved = stream(bands | {name: bands[name].roll(1, 2)})
        assert torch.allclose(moved, plain_texture, atol=1e-6) == (name not in ("HHH", "HLH")), name
        louder = stream(bands | {name: 3 * bands[name]})
        assert not torch.allclose(louder, plain_texture, atol=1e-4), name


def test_constant_clips_are_finite_with_finite_gradients(open_module: WaveletSelectiveScan) -> None:
    x = torch.full((2, 8, 4, 4, D), 3.0, requires_grad=True)
    out = open_module(x, bands_of(x))
    out.square().sum().backward()
    assert out.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in open_module.parameters())


def test_log_energies_stay_float32_under_autocast() -> None:
    band = torch.randn(2, 6, 4, 4, C) * torch.tensor([1.0, 1e-2, 1e-4, 0.0])
    expected = log_energy(band, (2, 3))
    assert expected[..., 3] == pytest.approx(-2.302585)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(log_energy(band, (2, 3)), expected)
        assert log_energy(band.bfloat16(), (2, 3)).dtype == torch.float32


def test_a_step_in_bfloat16_is_finite_and_near_float32(open_module: WaveletSelectiveScan) -> None:
    """With bands as the network makes them, of which energies are float32."""
    x = features()
    dwt = STF3DDWTModule(D, C)
    expected = open_module(x, dwt.bands_and_energies(x)[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = open_module(x, dwt.bands_and_energies(x)[0])
    out.square().sum().backward()
    torch.testing.assert_close(out, expected, rtol=0.05, atol=0.05)
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in open_module.parameters())


def test_deterministic_algorithms_allow_every_operation(open_module: WaveletSelectiveScan) -> None:
    x = features()
    torch.use_deterministic_algorithms(True)
    try:
        open_module(x, bands_of(x)).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.gpu
def test_deterministic_on_cuda_too(open_module: WaveletSelectiveScan) -> None:
    module, x = open_module.cuda(), features().cuda()
    bands = {name: band.cuda() for name, band in bands_of(features()).items()}
    gradients = []
    for _ in range(2):
        module.zero_grad()
        module(x, bands).square().sum().backward()
        gradients.append([p.grad.clone() for p in module.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_parameter_count_by_hand() -> None:
    """Layer by layer."""
    gru = 2 * (3 * K * C + 3 * K * K + 6 * K)
    gate = 2 * K * K + K
    texture, channel_gate = 2 * C * K + K, 2 * 8 * C + 8 * C * K + K + K * K + K
    assert sum(p.numel() for p in WaveletSelectiveScan(D, C, K).parameters()) == (
        gru + gate + texture + channel_gate + K * D
    )
