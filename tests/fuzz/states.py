"""Checkpoints and face caches: tensors behind JSON, archives with pickles inside, tables that point into pixels."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from stf.config import STFV8Config
from stf.data.cache.file import HEADER, OpenedFile, check_file
from stf.models.backbone_v73 import STFMambaV73
from stf.models.checkpoint import METADATA, _checksum, load_checkpoint_flexible, read_checkpoint
from tests.fuzz.kinds import Kind, Place, Rng
from tests.fuzz.mutations import VALUES, pick, spoil_bytes, spoil_value, spoiled_json
from tests.fuzz.payloads import payload

torch.set_num_threads(1)
_PARTS = ("config", "config", "config", "model", "model", "format", "epoch", "crop")  # of a checkpoint
_GLOBALS = (
    b"cos\nsystem\n",
    b"cposix\nsystem\n",
    b"cbuiltins\nbytearray\n",
    b"ctorch\nload\n",
    b"ccollections\nCounter\n",
)


@functools.cache
def _good(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def _pickled(rng: Rng, content: bytes, place: Place) -> bytes:
    """Another pickle in the archive: with a payload, with further opcodes, or with spoiled ones."""
    action = rng.random()
    if action < 0.2:
        return pickle.dumps({"model": payload(rng, place.canary)}, protocol=2)
    if action < 0.4:
        call = pick(rng, _GLOBALS) + pick(
            rng, (b"(X\x04\0\0\0trueitR", b"(I3000000000\ntR", b"(K\x05tR", b"R", b"b", b"\x81")
        )
        return content[:2] + call + pick(rng, (b"0", b".", b"")) + content[2:]
    if action < 0.6:
        at = int(rng.integers(2, len(content)))
        return (
            content[:at]
            + bytes(rng.choice(list(b"(.0123IJKLMNRSUVX])}abcdeghijlopqrstu\x85\x8a\x8c\x93\x94\x96"), 3))
            + content[at:]
        )
    return spoil_bytes(rng, content)


def _rezipped(rng: Rng, data: bytes, place: Place) -> bytes:
    """The archive with a record changed, compressed, doubled, renamed or left out."""
    out, action = io.BytesIO(), rng.random()
    how = zipfile.ZIP_DEFLATED if action < 0.15 else zipfile.ZIP_STORED
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w", how) as target:
        names = source.namelist()
        victim = next(n for n in names if n.endswith(".pkl")) if action > 0.4 else pick(rng, names)
        for name in names:
            content = source.read(name)
            if name == victim and name.endswith("data.pkl"):
                content = _pickled(rng, content, place)
            elif name == victim and action > 0.2:
                content = pick(
                    rng, (b"", content[: len(content) // 2], bytes(len(content)), content * 3, rng.bytes(40))
                )
            elif name == victim:
                name = pick(rng, (f"../../{name}", "/tmp/x", "data.pkl", name.upper(), "a" * 3000))
            target.writestr(name, content)
    return out.getvalue()


def _odd_tensor(rng: Rng, tensor: torch.Tensor) -> torch.Tensor:
    ways = (
        lambda: torch.zeros(1).expand(10**9), lambda: tensor.to(torch.complex64), lambda: tensor.to_sparse(),
        lambda: torch.full_like(tensor, float("nan")), lambda: tensor.to(torch.int32), lambda: tensor.to("meta"),
        lambda: tensor.flatten()[:1], lambda: tensor.T.clone() if tensor.ndim == 2 else tensor[None],
        lambda: torch.empty(0), lambda: tensor.half(),
        lambda: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
    )  # fmt: skip
    return pick(rng, ways)()


def _other_values(rng: Rng, content: dict[str, Any], parts: tuple[str, ...]) -> dict[str, Any]:
    """What a checkpoint holds, with one of its parts changed."""
    changed = dict(content)
    part = pick(rng, parts)
    if part == "config":
        changed["config"] = dict(changed["config"])
        for _ in range(int(rng.integers(1, 3))):
            changed["config"][pick(rng, list(changed["config"]))] = pick(
                rng, (*VALUES, 8, 16, 64, 1024, 8192)
            )
    elif part == "model":
        changed["model"] = dict(changed["model"])
        name = pick(rng, list(changed["model"]))
        changed["model"][name] = _odd_tensor(rng, changed["model"][name].float())
    elif part == "optimizer":
        changed[part] = spoil_value(rng, {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]})
    else:
        changed[part] = pick(rng, VALUES)
    return changed


def _make_torch_file(rng: Rng, place: Place) -> None:
    path, action = place.case / "best.pt", rng.random()
    data = (place.good / "best.pt").read_bytes()
    if action < 0.25:
        data = spoil_bytes(rng, data, pickle.dumps(payload(rng, place.canary)))
    elif action < 0.55:
        data = _rezipped(rng, data, place)
    elif action < 0.9:
        buffer = io.BytesIO()
        torch.save(_other_values(rng, _good(place.good / "best.pt"), ("optimizer", "extra", *_PARTS)), buffer)
        data = buffer.getvalue()
    elif action < 0.95:
        buffer = io.BytesIO()
        torch.save(
            payload(rng, place.canary), buffer, _use_new_zipfile_serialization=bool(rng.random() < 0.5)
        )
        data = buffer.getvalue()
    else:
        data = spoil_bytes(rng, (place.good / "old.pt").read_bytes())
    path.write_bytes(data)


def _make_safetensors(rng: Rng, place: Place) -> None:
    path, action = place.case / "best.safetensors", rng.random()
    data = (place.good / "best.safetensors").read_bytes()
    header_bytes = int.from_bytes(data[:8], "little")
    if action < 0.3:
        data = spoil_bytes(rng, data, pickle.dumps(payload(rng, place.canary)))
    elif action < 0.6:  # another header of the length that it says
        header = spoiled_json(rng, json.loads(data[8 : 8 + header_bytes]))
        data = len(header).to_bytes(8, "little") + header + data[8 + header_bytes :]
    elif action < 0.7:  # other settings, of which the checksum does not know
        settings = spoiled_json(rng, {"format": "stf-mamba-1", "epoch": 3, "config": {}})
        data = save(_good(place.good / "best.pt")["model"], {METADATA: settings.decode("utf-8", "replace")})
    else:  # other values, with a checksum that holds
        content = {k: v for k, v in _good(place.good / "best.pt").items() if k != "optimizer"}
        settings = _other_values(rng, content, _PARTS)
        weights = settings.pop("model")
        # a sparse, quantized, … tensor is not for safetensors
        with contextlib.suppress(RuntimeError, ValueError, TypeError, KeyError):
            settings["sha256"] = _checksum(settings, weights)
            data = save(weights, {METADATA: json.dumps(settings, sort_keys=True)})
    path.write_bytes(data)


def _read_checkpoint(place: Place) -> None:
    path = next(place.case.glob("best.*"))
    model = STFMambaV73(STFV8Config.debug())
    optimizer = torch.optim.AdamW(model.parameters())
    load_checkpoint_flexible(path, model, optimizer)
    checkpoint = read_checkpoint(path)
    network = checkpoint.build()
    assert all(value.isfinite().all() for value in network.state_dict().values())
    checkpoint.config.validate()


def _make_cache(rng: Rng, place: Place) -> None:
    data = (place.good / "video.faces").read_bytes()
    if rng.random() < 0.5:
        data = spoil_bytes(rng, data)
    else:  # change numbers in the tables, keeping the file's size
        changed, n_tables = bytearray(data), 8000
        for _ in range(int(rng.integers(1, 4))):
            at = 8 * int(rng.integers(1, min(len(data), n_tables) // 8 - 1))
            struct.pack_into(
                "<q", changed, at, int(rng.choice([-1, 0, 1, 7, 10**6, 10**12, 2**62, -(2**62)]))
            )
        data = bytes(changed)
        if rng.random() < 0.3:
            at = int(rng.integers(HEADER.itemsize, n_tables))
            data = (
                data[:at]
                + struct.pack("<d", float(rng.choice([np.nan, np.inf, 1e308, -1e9])))
                + data[at + 8 :]
            )
    (place.case / "video.faces").write_bytes(data)


def _read_cache(place: Place) -> None:
    path = place.case / "video.faces"
    check_file(path, 12, 8)
    with open(path, "rb", buffering=0) as stream:
        opened = OpenedFile(stream, path)
        for start in range(min(opened.n_frames, 12)):
            cached = opened.clip(start)
            if cached is None:
                continue
            track, frames_T = cached
            assert np.isfinite(track.landmarks_TN2).all()
            assert len(track.landmarks_TN2) == opened.num_frames
            assert all(opened.frame(frame).ndim == 3 for frame in frames_T)


KINDS = (
    Kind("torch file", _make_torch_file, _read_checkpoint),
    Kind("safetensors", _make_safetensors, _read_checkpoint),
    Kind("face cache", _make_cache, _read_cache),
)
