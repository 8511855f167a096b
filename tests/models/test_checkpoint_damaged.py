"""Damaged, foreign and hostile files are refused in one clear line, before they take memory, and never executed."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from stf.config import STFV8Config
from stf.errors import CheckpointError
from stf.models.backbone_v73 import STFMambaV73
from stf.models.checkpoint import MAX_HEADER_BYTES, load_checkpoint_flexible, read_checkpoint, save_checkpoint

MB = 1 << 20


def network() -> STFMambaV73:
    return STFMambaV73(STFV8Config.debug())


@pytest.fixture(params=["safetensors", "pt"])
def path(request, tmp_path):
    path = tmp_path / "weights" / f"best.{request.param}"
    save_checkpoint(path, network(), config=STFV8Config.debug(), epoch=7)
    return path


@pytest.fixture
def good(tmp_path) -> dict[str, Any]:
    """What a valid file contains."""
    config = STFV8Config.debug()
    save_checkpoint(tmp_path / "good.pt", STFMambaV73(config), config=config, epoch=1)
    return read_checkpoint(tmp_path / "good.pt").payload


def written(path: Path, payload: Any) -> Path:
    torch.save(payload, path)
    return path


class Call:
    """Unpickling this calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


def payload(path: Path) -> Call:
    return Call(os.mkdir, str(path))


def _truncated(path, tmp_path):
    path.write_bytes(path.read_bytes()[:-200])


def _half(path, tmp_path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _first_bytes(path, tmp_path):
    path.write_bytes(path.read_bytes()[:100])


def _without_the_last_byte(path, tmp_path):
    path.write_bytes(path.read_bytes()[:-1])


def _web_page(path, tmp_path):
    path.write_text(
        "<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body></body></html>\n" * 50
    )


def _numpy(path, tmp_path):
    with path.open("wb") as file:
        np.save(file, np.zeros((3, 4), np.float32))


def _numpy_of_objects(path, tmp_path):
    with path.open("wb") as file:
        np.save(file, np.array([payload(tmp_path / "executed")], dtype=object), allow_pickle=True)


def _zip_of_something_else(path, tmp_path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "weights are elsewhere")


def _script(path, tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))


def _whole_module(path, tmp_path):
    torch.save(torch.nn.Linear(2, 2), path)


def _empty(path, tmp_path):
    path.write_bytes(b"")


def _text(path, tmp_path):
    path.write_text("version https://git-lfs.invalid/spec/v1\n")


def _code(path, tmp_path):
    torch.save({"model": payload(tmp_path / "executed")}, path)


def _plain_pickle(path, tmp_path):
    path.write_bytes(pickle.dumps(payload(tmp_path / "executed")))


def _flipped(path, tmp_path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def _folder(path, tmp_path):
    path.unlink()
    path.mkdir()


def _missing(path, tmp_path):
    path.unlink()


def _list(path, tmp_path):
    torch.save([1, 2], path)


def _nothing_inside(path, tmp_path):
    torch.save({"epoch": 1}, path)


DAMAGES = [
    _truncated,
    _half,
    _first_bytes,
    _without_the_last_byte,
    _web_page,
    _numpy,
    _numpy_of_objects,
    _zip_of_something_else,
    _script,
    _whole_module,
    _empty,
    _text,
    _code,
    _plain_pickle,
    _flipped,
    _folder,
    _missing,
    _list,
    _nothing_inside,
]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:.*TorchScript")
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__.strip("_"))
def test_damaged_foreign_and_hostile_files_are_refused_in_one_line(path, tmp_path, damage):
    damage(path, tmp_path)
    for load in (lambda p: read_checkpoint(p).build(), lambda p: load_checkpoint_flexible(p, network())):
        with pytest.raises(CheckpointError) as error:
            load(path)
        message = str(error.value)
        assert str(path) in message
        assert "\n" not in message
        assert len(message) < 400
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (_empty, "an empty file"),
        (_folder, "a folder"),
        (_web_page, "a web page"),
        (_numpy_of_objects, "a NumPy array"),
        (_text, "a Git LFS pointer"),
    ],
)
def test_the_error_names_the_kind_of_a_file_with_known_first_bytes(path, tmp_path, damage, kind):
    damage(path, tmp_path)
    with pytest.raises(CheckpointError, match=f"is {kind}, not a checkpoint"):
        read_checkpoint(path)


def test_half_an_archive_is_reported_as_an_archive(tmp_path, good):
    path = written(tmp_path / "a.pt", good)
    _half(path, tmp_path)
    with pytest.raises(CheckpointError, match="is an archive that was cut short"):
        read_checkpoint(path)


@pytest.mark.parametrize("share", [i / 12 for i in range(12)])
def test_a_file_cut_short_anywhere_is_refused(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=str(path)):
        read_checkpoint(path)


def test_any_flipped_bit_of_a_weights_file_is_noticed(tmp_path):
    """In names, types, settings and numbers; neither safetensors nor torch would notice most of them."""
    path, rng = tmp_path / "best.safetensors", np.random.default_rng(0)
    save_checkpoint(path, network(), config=STFV8Config.debug(), epoch=7)
    content = path.read_bytes()
    header_end = 8 + int.from_bytes(content[:8], "little")
    key = content.index(b"stf-mamba")  # another key makes it another project's file, which is refused as such
    places = set(rng.integers(0, header_end, 150).tolist()) | set(
        rng.integers(header_end, len(content), 50).tolist()
    )
    for at in places - set(range(key, key + len("stf-mamba"))):
        changed = bytearray(content)
        changed[at] ^= 1 << int(rng.integers(8))
        if changed[:header_end].split() == content[:header_end].split():
            continue  # padding
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match="best"):
            read_checkpoint(path).build()


def test_a_compressed_archive_is_refused_before_it_is_inflated(tmp_path):
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
    with pytest.raises(CheckpointError, match="is compressed, which torch never does"):
        read_checkpoint(tmp_path / "a.pt")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_overlapping_records_are_refused(tmp_path, good):
    """A thousand names of one record would each be read."""
    path = written(tmp_path / "a.pt", good)
    with zipfile.ZipFile(path, "a") as archive:
        largest = max(archive.filelist, key=lambda record: record.file_size)
        archive.writestr("one more", "")  # so that the list is written anew
        archive.filelist += [largest] * 1000
    with pytest.raises(CheckpointError, match="more bytes than the file"):
        read_checkpoint(path)


def test_a_byte_array_of_any_size_is_refused(tmp_path):
    """In torch's old format too."""
    for zipped in (True, False):
        torch.save({"a": Call(bytearray, 10**12)}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match="builds a byte array"):
            read_checkpoint(tmp_path / "a.pt")


def test_a_file_larger_than_memory_is_refused_unread(tmp_path):
    with (tmp_path / "a.pt").open("wb") as file:
        file.truncate(10**13)  # takes no room on the disk
    with pytest.raises(CheckpointError, match=r"a\.pt has 10000\.0 GB, and reading it takes twice that"):
        read_checkpoint(tmp_path / "a.pt")


def test_a_giant_header_is_refused_unread(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}).encode()
    size = MAX_HEADER_BYTES + 1
    (tmp_path / "a.safetensors").write_bytes(size.to_bytes(8, "little") + header.ljust(size))
    with pytest.raises(CheckpointError, match=f"header has {size} bytes"):
        read_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "settings",
    ["", "{", "[]", "3", '"text"', "{}", '{"sha256": 3}', "[" * 100_000, '{"epoch": 1' + "0" * 9999 + "}"],
)
def test_invalid_settings_are_a_one_line_error(tmp_path, settings):
    path = tmp_path / "a.safetensors"
    path.write_bytes(save(network().state_dict(), {"stf-mamba": settings}))
    with pytest.raises(CheckpointError, match=r"a\.safetensors") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(1).expand(10**10), "more than the file has bytes for"),
        ([{"deep": (torch.zeros(1).expand(10**10),)}], "more than the file has bytes for"),
        (torch.eye(3).to_sparse(), "not plain numbers"),
        (torch.empty(3, device="meta"), "not plain numbers"),
    ],
)
def test_inconsistent_tensors_are_refused_wherever_they_are(tmp_path, value, message):
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(written(tmp_path / "a.pt", {"extra": value}))


def test_values_that_contain_themselves_are_visited_once(tmp_path):
    ring: list[Any] = [1]
    ring.append(ring)
    assert len(read_checkpoint(written(tmp_path / "a.pt", {"ring": ring})).payload["ring"]) == 2


@pytest.mark.parametrize(
    "changes", [{"stage3_dim": 2048, "stage3_blocks": 16}, {"stage4_blocks": 128}, {"dwt_channels": 8192}]
)
def test_the_configuration_inside_builds_no_larger_network_than_the_weights(good, tmp_path, changes):
    path = written(tmp_path / "a.pt", good | {"config": good["config"] | changes})
    with pytest.raises(CheckpointError, match="configuration of a larger network"):
        read_checkpoint(path).build()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, bad, suffix):
    config, model = STFV8Config.debug(), network()
    name, value = next(iter(model.state_dict().items()))
    value.view(-1)[0] = bad
    save_checkpoint(tmp_path / f"a.{suffix}", model, config=config)
    with pytest.raises(CheckpointError, match=rf"{name} holds NaN or infinite"):
        read_checkpoint(tmp_path / f"a.{suffix}").build()


@pytest.mark.parametrize("kind", [torch.complex64, torch.int32, torch.bool])
def test_weights_of_another_kind_are_not_converted_in_silence(good, tmp_path, kind):
    name = next(iter(good["model"]))
    good["model"][name] = good["model"][name].to(kind)
    save_file(good["model"], tmp_path / "a.safetensors")
    for path in (written(tmp_path / "a.pt", good), tmp_path / "a.safetensors"):
        with pytest.raises(CheckpointError, match=f"{name} holds {kind} numbers"):
            load_checkpoint_flexible(path, network())


@pytest.mark.parametrize(
    "state", [None, 3, [], {"state": 3}, {"param_groups": [3]}, {"state": {}, "param_groups": {}}]
)
def test_an_invalid_optimizer_state_is_a_one_line_error(good, tmp_path, state):
    model = network()
    path = written(tmp_path / "a.pt", good | {"optimizer": state})
    with pytest.raises(CheckpointError, match="state of the optimizer does not fit") as caught:
        load_checkpoint_flexible(path, model, torch.optim.AdamW(model.parameters()))
    assert "\n" not in str(caught.value)


def test_a_pipe_instead_of_a_checkpoint_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "best.safetensors")
    with pytest.raises(CheckpointError, match="a pipe or a device"):
        read_checkpoint(tmp_path / "best.safetensors")
