"""A checkpoint of a stranger's takes no more memory than its file has bytes, and gives no weights that are none."""

from __future__ import annotations

import io
import os
import resource
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from stf.config import STFV8Config
from stf.errors import CheckpointError
from stf.models.backbone_v73 import STFMambaV73
from stf.models.checkpoint_file import sealed
from stf.models.weights import load_checkpoint_flexible, load_model, read_checkpoint, save_checkpoint

MB = 1 << 20


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "best.pt"
    config = STFV8Config.debug()
    save_checkpoint(path, STFMambaV73(config), config=config, epoch=1)
    return path


def written(path: Path, payload: Any) -> Path:
    with path.open("wb") as file, sealed(file) as archive:
        torch.save(payload, archive)
    return path


class _Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


def test_a_compressed_archive_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(500 * MB // 4)}, buffer)
    with (
        zipfile.ZipFile(buffer) as source,
        zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in source.namelist():
            bomb.writestr(name, source.read(name))
    del buffer
    assert (tmp_path / "a.pt").stat().st_size < MB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="is compressed, as torch never does"):
        read_checkpoint(tmp_path / "a.pt")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_a_byte_array_of_any_size_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.pt", {"a": _Call(bytearray, 10**12)})
    with pytest.raises(CheckpointError, match="builds a byte array"):
        read_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize(
    ("value", "says"),
    [
        (torch.zeros(1).expand(10**10), "more than the file has bytes for"),
        ([{"deep": (torch.zeros(1).expand(10**10),)}], "more than the file has bytes for"),
        (torch.eye(3).to_sparse(), "not plain numbers"),
        (torch.empty(3, device="meta"), "not plain numbers"),
    ],
)
def test_tensors_that_are_not_what_they_say_are_refused_wherever_they_are(
    tmp_path: Path, value: object, says: str
) -> None:
    with pytest.raises(CheckpointError, match=says):
        read_checkpoint(written(tmp_path / "a.pt", {"extra": value}))


def test_values_that_hold_themselves_are_walked_once(tmp_path: Path) -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    assert len(read_checkpoint(written(tmp_path / "a.pt", {"ring": ring}))["ring"]) == 2


def test_the_configuration_inside_builds_no_larger_network_than_the_weights(
    good: Path, tmp_path: Path
) -> None:
    payload = read_checkpoint(good)
    for changes in (
        {"stage3_dim": 2048, "stage3_blocks": 16},
        {"stage4_blocks": 128},
        {"dwt_channels": 8192},
    ):
        path = written(tmp_path / "a.pt", payload | {"config": payload["config"] | changes})
        with pytest.raises(CheckpointError, match="configuration of a larger network"):
            load_model(path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(good: Path, tmp_path: Path, bad: float) -> None:
    payload = read_checkpoint(good)
    name = next(iter(payload["model"]))
    payload["model"][name].view(-1)[0] = bad
    path = written(tmp_path / "a.pt", payload)
    with pytest.raises(CheckpointError, match=rf"{name} holds NaN or infinite"):
        load_model(path)


@pytest.mark.parametrize("kind", [torch.complex64, torch.int32, torch.bool])
def test_weights_of_another_kind_are_not_converted_in_silence(
    good: Path, tmp_path: Path, kind: torch.dtype
) -> None:
    payload = read_checkpoint(good)
    name = next(iter(payload["model"]))
    payload["model"][name] = payload["model"][name].to(kind)
    with pytest.raises(CheckpointError, match=f"{name} holds {kind} numbers"):
        load_model(written(tmp_path / "a.pt", payload))


@pytest.mark.parametrize(
    "state", [None, 3, [], {"state": 3}, {"param_groups": [3]}, {"state": {}, "param_groups": {}}]
)
def test_an_optimizers_state_that_is_none_is_one_line(good: Path, tmp_path: Path, state: object) -> None:
    model = STFMambaV73(STFV8Config.debug())
    path = written(tmp_path / "a.pt", read_checkpoint(good) | {"optimizer": state})
    with pytest.raises(CheckpointError, match="state of the optimizer does not fit") as caught:
        load_checkpoint_flexible(path, model, torch.optim.AdamW(model.parameters()))
    assert "\n" not in str(caught.value)


def test_a_pipe_in_a_checkpoints_place_does_not_hang(tmp_path: Path) -> None:

    os.mkfifo(tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match="a pipe or a device"):
        read_checkpoint(tmp_path / "best.pt")
