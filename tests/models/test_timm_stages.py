"""A timm network as spatial backbone: its features, frozen or trained, and never with random weights in silence."""

from __future__ import annotations

import copy
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import Tensor

from stf.config import PHASE_A_FLAGS, STFV8Config, TrainingParams
from stf.errors import CheckpointError, ConfigError
from stf.models import spatial_weights
from stf.models.backbone_v73 import STFMambaV73
from stf.models.checkpoint import load_checkpoint_flexible, read_checkpoint, save_checkpoint
from stf.models.losses import STFV8Loss
from stf.models.network import build_network
from stf.models.spatial_weights import load_spatial_weights
from stf.models.timm_stages import TimmStages, build_timm_network
from stf.training.optimizer import learning_rates, parameter_groups
from stf.training.step import Batch, train_step
from stf.training.train_state import build_train_state

CONV, VIT = "convnextv2_atto", "vit_tiny_patch16_224"


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random weights of whole timm models, as the hub holds them: with a classifier, at the size they were made for."""
    folder, saved = tmp_path_factory.mktemp("timm"), {}
    torch.manual_seed(5)
    for name in (CONV, VIT):
        state = timm.create_model(name).state_dict()
        state = {key: torch.randn_like(value) * 0.05 + 0.01 for key, value in state.items()}
        saved[name] = folder / f"{name}.safetensors"
        save_file(state, saved[name])
        torch.save({"state_dict": state, "epoch": 7}, saved[name].with_suffix(".pth"))
    return saved


def config_of(name: str, file: Path | str = "", **fields: Any) -> STFV8Config:
    parts = {"spatial_backbone": f"timm:{name}", "spatial_weights": str(file)}
    return replace(STFV8Config.debug(), **(parts | fields))


@pytest.fixture
def make_model(files: dict[str, Path]) -> Callable[..., tuple[STFMambaV73, STFV8Config]]:
    """`make_model(name, **config fields)`: the debug network on a timm backbone with the file's weights."""

    def make(name: str = CONV, **fields: Any) -> tuple[STFMambaV73, STFV8Config]:
        torch.manual_seed(0)
        config = config_of(name, files[name], **fields)
        model = build_network(config)
        load_spatial_weights(model, config)
        return model, config

    return make


def clips(n: int = 2, size: int = 32) -> Tensor:
    return torch.rand(n, 3, 8, size, size, generator=torch.Generator().manual_seed(0))


def backbone_gradients(model: STFMambaV73) -> list[bool]:
    return [p.grad is not None and bool((p.grad != 0).any()) for _, p in model.backbone_parameters()]


@pytest.mark.parametrize("name", [CONV, VIT])
@pytest.mark.parametrize("size", [32, 48, 80])
def test_features_have_stage_2s_size(make_model, name: str, size: int) -> None:
    model, config = make_model(name, img_size=size)
    features = model.early(clips(1, size))
    assert features.shape == (1, 8, size // 8, size // 8, config.stage2_dim)
    assert set(model(clips(1, size))) == {"logits", "hll_energy", "all_band_energy"}


def test_a_file_gives_what_timm_itself_would_give(make_model, files) -> None:
    """Through timm's own checkpoint loading, its features_only network, and the model's mean and deviation."""
    model, _ = make_model(CONV)
    video = clips(1)
    theirs = timm.create_model(
        CONV,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(files[CONV])},
        features_only=True,
        out_indices=(1,),
    )
    data = timm.data.resolve_model_data_config(theirs)
    mean, std = (torch.tensor(data[key]).view(3, 1, 1) for key in ("mean", "std"))
    maps = theirs.eval()((video[0].transpose(0, 1) - mean) / std)[0].movedim(1, -1)
    torch.testing.assert_close(model.early(video)[0], model.early.project(model.early.norm(maps)))


def test_a_vits_patch_grid_is_resized_to_even_sides(make_model) -> None:
    """16 px patches of 64 px frames: 4 × 4 cells become 8 × 8, by torch's linear interpolation."""
    model, _ = make_model(VIT, img_size=64)
    early, video = model.early, clips(1, 64)
    frames = (video[0].transpose(0, 1) - early.mean) / early.std
    maps = early.network.forward_intermediates(frames, indices=[11], intermediates_only=True)[0]
    assert maps.shape[2:] == (4, 4)
    coarse = early.project(early.norm(maps.movedim(1, -1))).movedim(-1, 1)
    expected = torch.nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear").movedim(1, -1)
    torch.testing.assert_close(early(video)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "side", "stride"),
    [("convnextv2_atto", 96, None, 8), (VIT, 96, 96, 16), ("vit_small_patch14_dinov2", 96, 98, 14)],
)
def test_the_map_nearest_to_stride_8_and_frames_of_a_size_the_network_takes(name, size, side, stride) -> None:
    network, index, expected_side = build_timm_network(name, size)
    assert (expected_side, network.feature_info[index]["reduction"]) == (side, stride)


def test_frames_do_not_influence_each_other(make_model) -> None:
    model, _ = make_model(CONV)
    video, other = clips(1), clips(1)
    other[:, :, 3] += 0.1
    changed = (model.early(video) - model.early(other)).abs().amax((0, 2, 3, 4)) > 0
    assert changed.nonzero().flatten().tolist() == [3]


def test_frozen_stays_in_eval_mode_without_gradients_and_projection_learns(make_model) -> None:
    model, _ = make_model(CONV, spatial_frozen=True)
    model.train()
    assert not any(module.training for module in model.early.network.modules())
    assert model.early.norm.training
    before = copy.deepcopy(model.early.network.state_dict())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    sum(v.float().sum() for v in model(clips()).values()).backward()
    optimizer.step()
    assert not any(p.requires_grad for _, p in model.backbone_parameters())
    assert not any(backbone_gradients(model))
    assert model.early.project.weight.grad is not None
    assert all(torch.equal(before[key], value) for key, value in model.early.network.state_dict().items())


def test_frozen_stores_nothing_of_the_network_for_backward(make_model) -> None:
    """What is stored is of norm, projection and resizing: a few numbers per cell and channel, not twelve blocks."""
    early, sizes = make_model(VIT, spatial_frozen=True)[0].early, []

    def pack(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        early(clips(1))
    frames, cells, channels = 8, 4, 192
    assert 0 < sum(sizes) < 4 * frames * cells * channels


@pytest.mark.parametrize("name", [CONV, VIT, "resnet10t"])
def test_trained_gradients_reach_the_whole_network(name: str) -> None:
    """Also where blocks are computed again in backward. Noise in place of pretrained weights: some start at zero."""
    torch.manual_seed(0)
    model = build_network(config_of(name, spatial_frozen=False))
    with torch.no_grad():
        for _, parameter in model.backbone_parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    model.early.load(model.early.network.state_dict())
    model.train()(clips())["logits"].sum().backward()
    names = [n for n, _ in model.backbone_parameters()]
    assert not [n for n, reached in zip(names, backbone_gradients(model), strict=True) if not reached]
    assert not any(module.training for module in model.early.network.modules())


@pytest.mark.parametrize("flag", [None, *PHASE_A_FLAGS])
def test_works_with_every_flag_of_phase_a(make_model, flag: str | None) -> None:
    flags = {} if flag is None else {flag: True}
    model, config = make_model(CONV, spatial_frozen=False, **flags)
    loss = STFV8Loss(config)(model.train()(clips(4)), torch.tensor([0, 1, 0, 1]))["total"]
    loss.backward()
    assert loss.isfinite()


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_training_step_and_its_parameter_groups(make_model, frozen: bool, ema_decay: float) -> None:
    model, config = make_model(VIT, spatial_frozen=frozen, use_contrastive_hll=True)
    training = TrainingParams(backbone_lr_scale=0.01, ema_decay=ema_decay)
    train_state = build_train_state(model, config, training, epochs=1, steps_per_epoch=2, device="cpu")
    before = copy.deepcopy(model.early.network.state_dict())
    batch = Batch(clips(4), torch.tensor([0, 1, 0, 1]), [None] * 4)
    train_step(train_state, [batch], "the test")
    after = model.early.network.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in after) != frozen
    lr, backbone_lr = learning_rates(train_state.optimizer)
    assert torch.tensor(backbone_lr).isnan() if frozen else backbone_lr == pytest.approx(0.01 * lr)
    train_state.evaluation_model.eval()(clips())

    groups = parameter_groups(model, train_state.loss, weight_decay=0.05, backbone_lr_scale=0.01)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    assert sorted(scale) == sorted(id(p) for p in (*(p for _, p in trained), *train_state.loss.parameters()))
    for n, p in trained:
        assert scale[id(p)] == (0.01 if n.startswith("early.network.") else 1.0), n
    if not frozen:
        assert decay[id(model.early.network.pos_embed)] == 0.0, "as timm itself exempts it"


def test_a_backbone_without_weights_refuses_input() -> None:
    model = build_network(config_of(CONV))
    with pytest.raises(CheckpointError, match=r"convnextv2_atto has no weights: call load_spatial_weights"):
        model(clips())


def test_a_checkpoint_of_ours_needs_neither_file_nor_hub(make_model, monkeypatch, tmp_path: Path) -> None:
    model, config = make_model(VIT)
    config.spatial_weights = str(tmp_path / "gone.safetensors")
    save_checkpoint(tmp_path / "trained.pt", model, config=config, epoch=1)
    monkeypatch.setattr(spatial_weights, "hf_hub_download", None)
    saved = read_checkpoint(tmp_path / "trained.pt")
    loaded = saved.build()
    assert saved.config.spatial_backbone == f"timm:{VIT}"
    with torch.no_grad():
        torch.testing.assert_close(loaded(clips()), model.eval()(clips()))


def test_weights_of_another_backbone_are_not_loaded(make_model, tmp_path: Path) -> None:
    model, config = make_model(CONV)
    save_checkpoint(tmp_path / "trained.pt", model, config=config, epoch=1)
    other = build_network(config_of(VIT))
    load_checkpoint_flexible(tmp_path / "trained.pt", other)
    with pytest.raises(CheckpointError, match="has no weights"):
        other(clips())


def test_a_pth_file_gives_the_same_weights(make_model, files) -> None:
    expected, config = make_model(CONV)
    model, file = build_network(config), files[CONV].with_suffix(".pth")
    report = load_spatial_weights(model, replace(config, spatial_weights=str(file)))
    n_tensors = len(expected.early.network.state_dict())
    assert report == f"{CONV}: {n_tensors} tensors from {file}"
    for name, value in expected.early.network.state_dict().items():
        assert torch.equal(model.early.network.state_dict()[name], value), name


def test_a_network_saved_without_its_classifier_fits(files, tmp_path: Path) -> None:
    file, config = tmp_path / "headless.safetensors", config_of(CONV)
    save_file(timm.create_model(CONV, num_classes=0).state_dict(), file)
    assert load_spatial_weights(build_network(config), replace(config, spatial_weights=str(file)))


def require_refused(
    name: str, file: Path | str, match: str, error: type[Exception] = CheckpointError
) -> None:
    config = config_of(name, file)
    model = build_network(config)
    with pytest.raises(error, match=match) as raised:
        load_spatial_weights(model, config)
    assert "\n" not in str(raised.value)
    with pytest.raises(CheckpointError, match="has no weights"):
        model(clips())


def test_a_file_of_another_network_is_refused(files) -> None:
    require_refused(
        VIT, files[CONV], r"convnextv2_atto\.safetensors does not fit vit_tiny.*lacks .* tensors .*cls_token"
    )
    require_refused("convnextv2_femto", files[CONV], r"does not fit convnextv2_femto.*size mismatch")


def test_one_missing_tensor_is_reported_by_name(files, tmp_path: Path) -> None:
    """timm alone would leave it random without a message."""
    state = torch.load(files[CONV].with_suffix(".pth"))["state_dict"]
    missing = "stages.1.blocks.0.mlp.fc1.weight"
    del state[missing]
    save_file(state, tmp_path / "part.safetensors")
    require_refused(
        CONV, tmp_path / "part.safetensors", rf"lacks 1 of the \d+ tensors that are used \({missing}\)"
    )


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


def test_missing_damaged_and_hostile_files_are_refused(files, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    require_refused(
        CONV,
        tmp_path / "nowhere.pth",
        r"model\.spatial_weights: .*nowhere\.pth does not exist.*a file of timm's convnextv2_atto",
    )
    torch.save({"state_dict": Code()}, tmp_path / "code.pth")
    require_refused(CONV, tmp_path / "code.pth", "would have to run code")
    assert not (tmp_path / "executed").exists()
    for suffix in (".safetensors", ".pth"):
        whole = files[CONV].with_suffix(suffix).read_bytes()
        (tmp_path / f"half{suffix}").write_bytes(whole[: len(whole) // 2])
        require_refused(CONV, tmp_path / f"half{suffix}", "cannot be read as a checkpoint|cut short")
    for holds in (torch.zeros(3), {"epoch": 3}):
        torch.save(holds, tmp_path / "other.pth")
        require_refused(CONV, tmp_path / "other.pth", r"holds a Tensor|holds no weights")


def test_offline_without_a_file_is_a_clear_error_within_seconds(tmp_path: Path, monkeypatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    started_s = time.perf_counter()
    require_refused(
        CONV,
        "",
        r"weights of convnextv2_atto are not on this machine.*cannot be reached.*set model\.spatial_weights",
    )
    assert (
        time.perf_counter() - started_s < spatial_weights.REACHED_WITHIN_S + 30
    )  # the hub alone takes minutes


def test_the_hubs_cache_works_offline(files, monkeypatch) -> None:
    requested = []

    def cached(repository: str, file: str, local_files_only: bool = False) -> str:
        requested.append((repository, file))
        if not local_files_only:
            raise AssertionError("the hub was called")
        if file != "pytorch_model.bin":
            raise LocalEntryNotFoundError("not there")
        return str(files[CONV].with_suffix(".pth"))

    monkeypatch.setattr(spatial_weights, "hf_hub_download", cached)
    model, config = build_network(config_of(CONV)), config_of(CONV)
    assert "tensors from" in load_spatial_weights(model, config)
    assert requested[0][0].startswith("timm/convnextv2_atto.")
    assert model(clips())["logits"].isfinite().all()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("convnextv2_ato", "convnextv2_atto"),
        ("vit_small_patch14_dinov2.lvd142n", "vit_small_patch14_dinov2.lvd142m"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=rf'spatial_backbone is "timm:{name}".*did you mean "{nearest}"'):
        build_network(config_of(name))


def test_a_network_without_pretrained_weights_is_refused() -> None:
    require_refused(
        "convnext_atto_rms", "", "timm has no pretrained weights of convnext_atto_rms", ConfigError
    )


def test_dcconv_needs_no_weights() -> None:
    config = STFV8Config.debug()
    assert load_spatial_weights(build_network(config), config) == ""
    assert not any(isinstance(module, TimmStages) for module in build_network(config).modules())
