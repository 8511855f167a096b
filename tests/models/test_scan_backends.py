"""The scan backend is chosen by machine, never in silence; mamba-ssm's kernel gets what it demands."""

import sys
from dataclasses import replace

import pytest
import torch

from stf.config import STFV8Config
from stf.errors import ConfigError
from stf.models.hydra_mixer import Conv1DSequenceMixer
from stf.models.mamba_blocks import MambaVisionMixer
from stf.models.network import build_network
from stf.models.scan import selective_scan
from stf.models.scan_backends import portable, resolve_backend
from tests.reference import models_mamba_ssm_fake as fake
from tests.reference.models_clips import camera_clips

BROKEN = {
    "built without nvcc": ("import selective_scan_cuda", "selective_scan_cuda"),
    "built against another torch": ("raise ImportError('undefined symbol: _ZN3c10')", "undefined symbol"),
    "without a CUDA runtime": ("raise OSError('libcudart.so.12: cannot open')", "libcudart"),
    "with another transformers": (
        "raise RuntimeError('Failed to import\\n  Generation')",
        "Failed to import Gen",
    ),
    "with another triton": ("import math; math.no_such_name", "no_such_name"),
}


@pytest.fixture
def package(monkeypatch):
    fake.install(monkeypatch)


@pytest.fixture
def no_package(monkeypatch):
    fake.remove(monkeypatch)


def inputs(T=9, M=7, G=2, D=5, N=3, device="cpu"):
    draw = torch.Generator().manual_seed(0)
    u, dt, A = (torch.randn(*shape, generator=draw) for shape in ((T, M, G, D), (T, M, G, D), (G, D, N)))
    B, C = (torch.randn(T, M, G, N, generator=draw) for _ in range(2))
    leaves = [u, torch.nn.functional.softplus(dt), -A.abs() - 0.1, B, C]
    return [x.to(device).requires_grad_() for x in leaves]


def compare_backends(leaves, tolerance):
    """Outputs and all five gradients of both backends, for a loss with another weight for every output."""
    weight = torch.randn(leaves[0].shape, generator=torch.Generator().manual_seed(1)).to(leaves[0].device)
    results = []
    for backend in ("torch", "mamba_ssm"):
        y = selective_scan(*leaves, backend=backend)
        results.append([y, *torch.autograd.grad((y * weight).sum(), leaves)])
    for name, a, b in zip(["y", "u", "dt", "A", "B", "C"], *results, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(
            b, a, rtol=tolerance, atol=10 * tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize(
    "sizes", [{}, {"T": 1}, {"M": 1, "G": 1, "D": 1, "N": 1}, {"G": 3, "D": 1}, {"T": 32}], ids=str
)
def test_the_kernel_gets_the_layout_it_demands_and_each_direction_its_own_matrices(package, sizes):
    compare_backends(inputs(**sizes), 1e-5)


def test_strided_and_half_precision_inputs_reach_the_kernel_in_float32(package):
    leaves = [x.detach() for x in inputs(M=6)]
    u, dt, A, B, C = [x.bfloat16() if i != 2 else x for i, x in enumerate(leaves)]
    with torch.autocast("cpu", torch.bfloat16):
        y = selective_scan(u[:, ::2], dt[:, ::2], A, B[:, ::2], C[:, ::2], "mamba_ssm")
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, selective_scan(u, dt, A, B, C)[:, ::2], rtol=1e-5, atol=1e-5)


def test_a_mixer_has_the_same_parameters_and_output_with_either(package):
    torch.manual_seed(0)
    ours, theirs = MambaVisionMixer(12, d_state=3), MambaVisionMixer(12, d_state=3, backend="mamba_ssm")
    theirs.load_state_dict(ours.state_dict())
    x, states = torch.randn(5, 8, 12), torch.rand(5, 3)
    for arguments in ((x,), (x, states)):
        torch.testing.assert_close(theirs(*arguments), ours(*arguments), rtol=1e-5, atol=1e-6)


def test_a_network_is_built_with_the_backend_of_its_machine_and_computes_the_same(package):
    config = STFV8Config.debug()
    networks = [build_network(config, device).eval() for device in ("cpu", "cuda")]
    assert [n.ssm_backend for n in networks] == ["torch", "mamba_ssm"]
    assert {m.backend for m in networks[1].modules() if isinstance(m, MambaVisionMixer)} == {"mamba_ssm"}
    networks[1].load_state_dict(networks[0].state_dict())
    video = camera_clips(2, config.num_frames, config.img_size)
    first, second = (n(video) for n in networks)
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-5)


def test_auto_takes_mamba_ssm_on_cuda_only(package):
    assert [resolve_backend("auto", d) for d in ("cuda", "cuda:1", "cpu", "mps")] == [
        "mamba_ssm",
        "mamba_ssm",
        "torch",
        "torch",
    ]
    assert resolve_backend("mamba_ssm", "cuda:1") == "mamba_ssm"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", ["torch", "conv1d"])
def test_torch_and_conv1d_are_taken_by_name_on_any_device(package, name, device):
    assert resolve_backend(name, device) == name


def test_without_the_package_auto_is_torch_and_its_name_an_error_with_the_install_command(no_package):
    assert resolve_backend("auto", "cuda") == "torch"
    with pytest.raises(ConfigError) as error:
        resolve_backend("mamba_ssm", "cuda")
    assert error.value.exit_code == 2
    message = str(error.value)
    for part in ("[cuda]", "MAMBA_FORCE_BUILD=TRUE", "--no-build-isolation", "ninja", '"auto" or "torch"'):
        assert part in message
    assert "\n" not in message


def test_on_a_cpu_the_reason_is_the_device(package):
    with pytest.raises(ConfigError, match="need CUDA and the device is cpu.*--no-build-isolation"):
        build_network(replace(STFV8Config.debug(), ssm_backend="mamba_ssm"))


@pytest.mark.parametrize(("code", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_package_that_does_not_import_is_reported_with_its_reason_and_never_stops_auto(
    monkeypatch, tmp_path, code, reason
):
    fake.remove(monkeypatch)
    monkeypatch.delitem(sys.modules, "mamba_ssm")
    (tmp_path / "mamba_ssm").mkdir()
    (tmp_path / "mamba_ssm/__init__.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve_backend("auto", "cuda") == "torch"
    with pytest.raises(ConfigError, match=reason):
        resolve_backend("mamba_ssm", "cuda")


def test_a_package_without_the_compiled_scan_is_not_usable(package, monkeypatch):
    """Versions after 2.3.2 import without it and fail at the first scan."""
    monkeypatch.setitem(sys.modules, "selective_scan_cuda", None)
    assert resolve_backend("auto", "cuda") == "torch"


def test_conv1d_is_built_by_name_only():
    config = replace(STFV8Config.debug(), ssm_backend="conv1d")
    network = build_network(config)
    assert network.ssm_backend == "conv1d"
    kinds = {type(m) for m in network.modules() if isinstance(m, MambaVisionMixer | Conv1DSequenceMixer)}
    assert kinds == {Conv1DSequenceMixer}
    assert network(camera_clips(2, config.num_frames, config.img_size))["logits"].isfinite().all()


def test_weights_are_portable_between_the_first_two():
    assert [portable(n) for n in ("auto", "torch", "mamba_ssm", "conv1d")] == [
        "auto",
        "torch",
        "auto",
        "conv1d",
    ]


@pytest.mark.gpu
@pytest.mark.parametrize("sizes", [{}, {"T": 32, "M": 49, "D": 768, "N": 16}], ids=str)
def test_the_real_kernel_equals_the_torch_scan(sizes):
    """Outputs and gradients; float32 sums of another order, hence the tolerance."""
    pytest.importorskip("selective_scan_cuda", exc_type=ImportError)
    assert resolve_backend("mamba_ssm", "cuda") == "mamba_ssm"
    compare_backends(inputs(**sizes, device="cuda"), 1e-4)
