"""Files that are no checkpoint, or no longer one, are refused in one clear line and never executed."""

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from stf.config import STFV8Config
from stf.errors import CheckpointError
from stf.models.backbone_v73 import STFMambaV73
from stf.models.weights import load_checkpoint_flexible, load_model, read_checkpoint, save_checkpoint


def network() -> STFMambaV73:
    return STFMambaV73(STFV8Config.debug())


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "weights" / "best.pt"
    save_checkpoint(path, network(), config=STFV8Config.debug(), epoch=7)
    return path


class Payload:
    """Unpickling this would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


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
        np.save(file, np.array([Payload(tmp_path / "executed")], dtype=object), allow_pickle=True)


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
    torch.save({"model": Payload(tmp_path / "executed")}, path)


def _plain_pickle(path, tmp_path):
    path.write_bytes(pickle.dumps(Payload(tmp_path / "executed")))


def _flipped(path, tmp_path):
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
    content[largest.header_offset + 200 + largest.file_size // 2] ^= 0xFF
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
    for load in (load_model, lambda p: load_checkpoint_flexible(p, network())):
        with pytest.raises(CheckpointError) as error:
            load(path)
        message = str(error.value)
        assert str(path) in message
        assert "\n" not in message
        assert len(message) < 400
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_half, "an archive that was cut short"),
        (_empty, "an empty file"),
        (_folder, "a folder"),
        (_web_page, "a web page"),
        (_numpy_of_objects, "a NumPy array"),
        (_text, "a Git LFS pointer"),
    ],
)
def test_the_error_tells_what_the_file_is_where_its_first_bytes_do(path, tmp_path, damage, told):
    damage(path, tmp_path)
    with pytest.raises(CheckpointError, match=f"is {told}, not a checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize("share", [i / 12 for i in range(12)])
def test_a_file_cut_short_anywhere_is_refused(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=str(path)):
        read_checkpoint(path)
