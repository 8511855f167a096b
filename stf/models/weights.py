"""Checkpoints: written atomically and byte for byte reproducibly, read without ever running code.

A checkpoint is what torch.load(weights_only=True) reads: a dict of tensors, numbers and text. The one that is
a DVC out holds weights, configuration and epoch only; the optimizer's state goes into resumable checkpoints.
"""

from __future__ import annotations

import dataclasses
import pickle
import struct
import textwrap
import warnings
import zipfile
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from stf.config import STFV8Config
from stf.errors import CheckpointError, ConfigError
from stf.io.files import open_regular
from stf.io.values import printable
from stf.models.backbone_v73 import STFMambaV73
from stf.models.checkpoint_file import atomic_file, require_whole, sealed
from stf.models.checkpoint_guard import require_harmless, require_held
from stf.models.load_report import LoadReport
from stf.models.network import build_network
from stf.models.scan_backends import portable
from stf.models.size import parameters

FORMAT = "stf-mamba-1"
MACHINE_FIELDS = ("num_workers",)  # no part of a result: the file must not change with them
WRAPPERS = ("model", "state_dict", "model_state_dict")  # where other projects keep the weights
FOREIGN = {b"<": "a web page", b"\x93NUMPY": "a NumPy array", b"version https://git-": "a Git LFS pointer"}
MAX_NAME = 300  # characters of a tensor's name that are looked at
PARTS = ("optimizer", "scheduler", "scaler")
# What torch.load and zipfile raise for a file that is none of theirs, or no longer: its reader of pickles is a plain
# machine, which stumbles over wrong operands wherever it meets them.
_UNREADABLE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


class Stateful(Protocol):
    """An optimizer, schedule or gradient scaler."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


def save_checkpoint(  # noqa: PLR0913  # the author's eight, in his order, and three by name
    path: str | Path,
    model: nn.Module,
    optimizer: Stateful | None = None,
    scheduler: Stateful | None = None,
    scaler: Stateful | None = None,
    epoch: int = 0,
    best_auc: float | None = None,
    config: STFV8Config | None = None,
    *,
    loss: nn.Module | None = None,
    extra: dict[str, Any] | None = None,
    previous: Path | None = None,
) -> None:
    """Writes `path` in one step (temporary file, fsync, rename), with a checksum; equal state gives equal bytes.

    What was under `path` moves to `previous` where that is given. `extra` holds further plain values. The scan backend
    that was used is written beside the configuration, which has what was asked for. Raises TypeError without `config`,
    which rebuilds the network, and CheckpointError when the folder cannot be written.
    """
    if config is None:
        raise TypeError("save_checkpoint() needs `config`: the network is rebuilt from it")
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in MACHINE_FIELDS}
    payload: dict[str, Any] = {"format": FORMAT, "config": settings, "epoch": epoch, "model": _owned(model)}
    payload["ssm_backend"] = getattr(model, "ssm_backend", "torch")
    if best_auc is not None:
        payload["best_auc"] = float(
            best_auc
        )  # scikit-learn's is a NumPy number, which no reader of weights takes
    if loss is not None:
        payload["loss"] = _owned(loss)
    parts = zip(PARTS, (optimizer, scheduler, scaler), strict=True)
    payload |= {name: part.state_dict() for name, part in sorted(parts) if part is not None}
    if extra is not None:
        payload["extra"] = extra
    with atomic_file(Path(path), previous) as file, sealed(file) as archive:
        # into a path torch would write the file's own name, and other bytes under another name
        torch.save(payload, archive)


def _owned(module: nn.Module) -> dict[str, Tensor]:
    """The state on the CPU, each tensor with a storage of its own size."""
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The dict in a checkpoint, tensors on the CPU; raises CheckpointError (missing, damaged, or holding code)."""
    try:
        require_harmless(path)
        require_whole(path)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # torch would have a file of another pickle protocol reported to it
            payload = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; `dvc repro` or `dvc pull` brings it") from None
    except _UNREADABLE as error:
        if found := _what_it_is(path):
            raise CheckpointError(f"{path} is {found}, not a checkpoint; take another copy") from None
        if isinstance(error, pickle.UnpicklingError):
            advice = (
                "it is damaged, or would have to run code to be read, which is refused; take another file"
            )
            raise CheckpointError(f"{path} is not a file of plain weights: {advice}") from None
        reason = textwrap.shorten(str(error) or type(error).__name__, 150, placeholder=" …")
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({reason}); take another copy"
        ) from None
    if not isinstance(payload, dict):
        raise CheckpointError(f"{path} holds a {type(payload).__name__}, not a checkpoint")
    require_held(path, payload)
    return payload


def _what_it_is(path: str | Path) -> str:
    """What a file that torch cannot read turns out to be; an empty string when its first bytes do not tell."""
    if Path(path).is_dir():
        return "a folder"
    try:
        with open_regular(path) as file:
            head = file.read(32)
    except OSError:
        return ""
    if not head:
        return "an empty file"
    if head.startswith(b"PK") and not zipfile.is_zipfile(path):
        return "an archive that was cut short"
    return next((what for start, what in FOREIGN.items() if head.startswith(start)), "")


def _weights_in(payload: dict[str, Any], path: str | Path) -> dict[str, Tensor]:
    """The name → tensor dict of our own or a common foreign layout; DataParallel's "module." is taken off."""
    inside = next((payload[key] for key in WRAPPERS if isinstance(payload.get(key), dict)), payload)
    weights = {
        printable(str(k)[:MAX_NAME]).removeprefix("module."): v
        for k, v in inside.items()
        if isinstance(v, Tensor)
    }
    if not weights:
        raise CheckpointError(f"{path} holds no weights; give a checkpoint written by train_phase_a")
    return weights


def load_checkpoint_flexible(
    path: str | Path,
    model: nn.Module,
    optimizer: Stateful | None = None,
    scheduler: Stateful | None = None,
    scaler: Stateful | None = None,
) -> LoadReport:
    """Loads every parameter whose name and shape agree and leaves the rest as initialised.

    Optimizer, schedule and scaler are restored only when all weights agree, because their states belong to
    them. Raises CheckpointError when file and network share nothing.
    """
    payload = read_checkpoint(path)
    weights, own = _weights_in(payload, path), model.state_dict()
    common = [name for name in own if name in weights]
    loaded = [name for name in common if weights[name].shape == own[name].shape]
    if not loaded:
        raise CheckpointError(
            f"{path} shares no weights with {type(model).__name__}; it belongs to another network"
        )
    _require_numbers(path, {name: weights[name] for name in loaded}, own)
    model.load_state_dict({name: weights[name] for name in loaded}, strict=False)
    new = tuple(name for name in own if name not in weights)
    dropped = tuple(name for name in weights if name not in own)
    whole = len(loaded) == len(own) == len(weights)
    wanted = zip(PARTS, (optimizer, scheduler, scaler), strict=True)
    restored = [(name, part) for name, part in wanted if part is not None and name in payload and whole]
    for name, part in restored:
        try:
            part.load_state_dict(payload[name])
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"{path}: the state of the {name} does not fit this run's: {str(error)[:150]}"
            ) from None
    reshaped = tuple(name for name in common if name not in loaded)
    sizes = {name: value.numel() for name, value in (weights | own).items()}
    restored_names = tuple(name for name, _ in restored)
    epoch, best_auc = payload.get("epoch"), payload.get("best_auc")  # of another project's: anything
    return LoadReport(
        tuple(loaded), new, dropped, reshaped, restored_names, sizes,
        epoch=epoch if isinstance(epoch, int) else None,
        best_auc=best_auc if isinstance(best_auc, float) else None,
    )  # fmt: skip


def _require_numbers(path: str | Path, weights: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    """Raises CheckpointError for weights that are not finite, or of a kind that would change when it is copied."""
    for name, value in weights.items():
        if value.is_complex() or value.is_floating_point() != own[name].is_floating_point():
            raise CheckpointError(
                f"{path}: {name} holds {value.dtype} numbers, not {own[name].dtype}; take another copy"
            )
        if not value.isfinite().all():
            raise CheckpointError(f"{path}: {name} holds NaN or infinite numbers; take an earlier checkpoint")


def load_weights(path: str | Path, model: nn.Module) -> None:
    """Loads a checkpoint that fits `model` exactly; raises CheckpointError naming what does not."""
    report = load_checkpoint_flexible(path, model)
    if report.new or report.dropped or report.reshaped:
        first = (report.new + report.dropped + report.reshaped)[0]
        raise CheckpointError(
            f"{path} does not fit this network: {len(report.new)} tensors are missing, {len(report.dropped)} belong to "
            f"another network and {len(report.reshaped)} have another shape (the first: {first}); take a checkpoint "
            "trained with the same flags and sizes"
        )


def load_model(path: str | Path, device: str = "cpu") -> tuple[STFMambaV73, STFV8Config, int]:
    """(network in eval mode on `device`, its configuration, epoch) from one of our checkpoints and the config inside.

    The scan backend is chosen for `device` anew: weights trained with mamba_ssm are evaluated with torch where it
    cannot run. The configuration keeps what was asked for; the network's `ssm_backend` tells what is used.
    """
    payload = read_checkpoint(path)
    settings, epoch = payload.get("config"), payload.get("epoch")
    if payload.get("format") != FORMAT or not isinstance(settings, dict) or not isinstance(epoch, int):
        raise CheckpointError(
            f"{path} is not a checkpoint of STF-Mamba ({FORMAT}); give one written by train_phase_a"
        )
    try:
        config = STFV8Config.from_settings(settings)
    except ConfigError as error:
        raise CheckpointError(
            f"{path} holds a configuration that this version cannot read: {error}"
        ) from None
    held = sum(value.numel() for value in _weights_in(payload, path).values())
    if sum(parameters(config).values()) > held:  # before a network of any size is built
        raise CheckpointError(
            f"{path} holds the configuration of a larger network than its weights; take another copy"
        )
    here = dataclasses.replace(config, ssm_backend=portable(config.ssm_backend))
    model = build_network(here, device)
    load_weights(path, model)
    return model.to(device).eval(), config, epoch
