"""Checkpoints: written atomically and byte for byte reproducibly, read once, never executed.

A file that ends in .safetensors holds weights alone: the network's tensors and, as JSON under one metadata key, what is
needed to build the network and to crop faces for it. Any other name gets a torch file (zip) with a dict of tensors,
numbers and text: the state of a training. Either is a checkpoint with the same keys, and either carries a SHA-256,
because neither format notices a flipped bit by itself. Files are recognised by their first bytes, not by their name.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import os
import pickle
import struct
import textwrap
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, cast

import psutil
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from stf.config import STFV8Config
from stf.data.faces import CROP_RULES
from stf.errors import CheckpointError, ConfigError
from stf.io.atomic import atomic_file
from stf.io.files import open_regular
from stf.io.values import printable
from stf.models.backbone_v73 import STFMambaV73
from stf.models.load_report import LoadReport
from stf.models.network import build_network
from stf.models.scan_backends import portable
from stf.models.size import parameters

FORMAT = "stf-mamba-1"
METADATA = "stf-mamba"  # one key alone: safetensors writes several in random order
MACHINE_FIELDS = ("num_workers",)  # not part of a result: the file must not change with them
PARTS = ("optimizer", "scheduler", "scaler")
# Where other projects keep their weights, the moving average first
WRAPPERS = ("state_dict_ema", "model_ema", "model", "state_dict", "model_state_dict")
MAX_NAME = 300  # characters of a tensor's name that are used
MAX_HEADER_BYTES = 10_000_000  # of a safetensors file; ours has 0.03 MB
MAX_PICKLE_BYTES = 100_000_000  # of a torch file's names and plain values; ours have 0.3 MB

_FOREIGN = {b"<": "a web page", b"\x93NUMPY": "a NumPy array", b"version https://git-": "a Git LFS pointer"}
_SEAL = b"sha256:"
_SEAL_BYTES = len(_SEAL) + 64
_ZIP, _ZIP_END = b"PK", b"PK\x05\x06"
# What torch.load, zipfile and json raise for a file that is damaged or not theirs: torch's pickle reader is a plain
# machine, which stumbles over wrong operands wherever it meets them.
_UNREADABLE = (
    SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile, struct.error, ArithmeticError, AssertionError,
    AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError, SyntaxError, TypeError, ValueError,
)  # fmt: skip


class Stateful(Protocol):
    """An optimizer, schedule or gradient scaler."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


# ---------------------------------------------------------------------------------------------- writing


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
    """Writes `path` in one step (temporary file, fsync, rename); equal state gives equal bytes.

    The file that was under `path` moves to `previous`, where that is given. `extra` holds further plain values. The
    scan backend that ran is written beside the configuration, which has the one that was asked for.

    Raises TypeError without `config`, which rebuilds the network; ValueError when a .safetensors file is to hold more
    than weights; CheckpointError when the file cannot be written.
    """
    if config is None:
        raise TypeError("save_checkpoint() needs `config`: the network is rebuilt from it")
    path = Path(path)
    payload: dict[str, Any] = {
        "format": FORMAT,
        "config": {k: v for k, v in dataclasses.asdict(config).items() if k not in MACHINE_FIELDS},
        "crop": CROP_RULES,
        "epoch": epoch,
        "ssm_backend": getattr(model, "ssm_backend", "torch"),
    }
    if best_auc is not None:
        payload["best_auc"] = float(best_auc)  # scikit-learn's is a NumPy number, which is no plain value
    states = zip(PARTS, (optimizer, scheduler, scaler), strict=True)
    state = {name: part.state_dict() for name, part in states if part is not None}
    if loss is not None:
        state["loss"] = _weights_of(loss)
    if extra is not None:
        state["extra"] = extra
    if state and path.suffix == ".safetensors":
        raise ValueError(
            f"{path}: a .safetensors file holds weights alone; write {', '.join(state)} to a .pt file"
        )
    try:
        with atomic_file(path, previous) as file:
            if path.suffix == ".safetensors":
                _write_safetensors(file, payload, _weights_of(model))
            else:
                _write_torch(file, payload | {"model": _weights_of(model)} | state)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written: {error.strerror or error}; the file that was there is untouched. Free some "
            "space or change the permissions, and run the same command again"
        ) from None


def _weights_of(module: nn.Module) -> dict[str, Tensor]:
    """The state on the CPU, each tensor with a storage of its own size."""
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


def _write_safetensors(file: IO[bytes], settings: dict[str, Any], weights: dict[str, Tensor]) -> None:
    sealed = settings | {"sha256": _checksum(settings, weights)}
    file.write(safetensors.torch.save(weights, {METADATA: json.dumps(sealed, sort_keys=True)}))


def _checksum(settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over the settings and every tensor's name, type, shape and numbers."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name in sorted(weights):
        value = weights[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _write_torch(file: IO[bytes], payload: dict[str, Any]) -> None:
    """torch's zip archive, whose comment (the last bytes) is "sha256:" and the digest of the archive without it."""
    # into a path torch would write the file's own name, and other bytes under another name
    hashing = _HashingFile(file)
    try:
        torch.save(payload, cast(IO[bytes], hashing))
    except RuntimeError as error:  # of a full disk, of which its message does not speak
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    file.seek(-2, os.SEEK_END)  # the length of the comment
    file.write(struct.pack("<H", _SEAL_BYTES) + _SEAL + hashing.digest.hexdigest().encode())


class _HashingFile(io.BufferedIOBase):
    """Passes on what is written to it, and computes its digest."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def write(self, data: Any, /) -> int:
        self.digest.update(data)
        return self._file.write(data)


# ---------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Checkpoint:
    """A file that was read once and checked; its tensors are on the CPU, and `payload` holds all of it."""

    path: Path
    sha256: str  # of the file
    payload: dict[str, Any]

    @functools.cached_property
    def weights(self) -> dict[str, Tensor]:
        """Name → tensor, of our own or a common foreign layout, without the prefixes of DataParallel and compile.

        Raises CheckpointError when there are none.
        """
        wrapped = (self.payload.get(key) for key in WRAPPERS)
        holder = next((value for value in wrapped if isinstance(value, dict)), self.payload)
        weights = {
            printable(str(name)[:MAX_NAME]).removeprefix("module.").removeprefix("_orig_mod."): value
            for name, value in holder.items()
            if isinstance(value, Tensor)
        }
        if not weights:
            raise CheckpointError(f"{self.path} holds no weights; take another file")
        return weights

    @functools.cached_property
    def config(self) -> STFV8Config:
        """The configuration inside; raises CheckpointError when it is not ours or cannot be used by this version."""
        settings = self.payload.get("config")
        if self.payload.get("format") != FORMAT or not isinstance(settings, dict):
            raise CheckpointError(
                f"{self.path} is not a checkpoint of STF-Mamba ({FORMAT}); give one written by train_phase_a"
            )
        if self.payload.get("crop", CROP_RULES) != CROP_RULES:
            raise CheckpointError(
                f"{self.path} was trained on faces cropped by other rules than this version's; use the version that "
                "wrote it"
            )
        try:
            return STFV8Config.from_settings(settings)
        except ConfigError as error:
            raise CheckpointError(
                f"{self.path} holds a configuration that this version cannot read: {error}"
            ) from None

    @property
    def epoch(self) -> int:
        """The epoch that the weights are of; raises CheckpointError when the file does not say."""
        epoch = self.payload.get("epoch")
        if not isinstance(epoch, int):
            raise CheckpointError(f"{self.path} holds no epoch; give a checkpoint written by train_phase_a")
        return epoch

    def build(self, device: str = "cpu") -> STFMambaV73:
        """The network of the configuration inside, with all its weights, in eval mode on `device`.

        The scan backend is chosen for `device` anew: weights trained with mamba_ssm are evaluated with torch where it
        cannot run; the network's `ssm_backend` says which is used. Raises CheckpointError when weights and
        configuration do not belong together.
        """
        held = sum(value.numel() for value in self.weights.values())
        try:
            needed = sum(parameters(self.config).values())  # of a network that takes no memory yet
        except ConfigError as error:
            raise CheckpointError(
                f"{self.path} holds a configuration that cannot be built: {error}"
            ) from None
        if needed > held:
            raise CheckpointError(
                f"{self.path} holds the configuration of a larger network than its weights; take another copy"
            )
        here = dataclasses.replace(self.config, ssm_backend=portable(self.config.ssm_backend))
        model = build_network(here, device)
        report = self.load_into(model)
        if unfit := report.new + report.dropped + report.reshaped:
            raise CheckpointError(
                f"{self.path} does not fit the network of its configuration: {len(report.new)} tensors are missing, "
                f"{len(report.dropped)} belong to another network and {len(report.reshaped)} have another shape (the "
                f"first: {unfit[0]}); take another copy"
            )
        return model.to(device).eval()

    def load_into(
        self,
        model: nn.Module,
        optimizer: Stateful | None = None,
        scheduler: Stateful | None = None,
        scaler: Stateful | None = None,
    ) -> LoadReport:
        """Loads every tensor whose name and shape agree and leaves the rest as initialised.

        Optimizer, schedule and scaler are restored only when all weights agree, because their states belong to
        them. Raises CheckpointError when file and network share nothing.
        """
        weights, own = self.weights, model.state_dict()
        common = [name for name in own if name in weights]
        loaded = [name for name in common if weights[name].shape == own[name].shape]
        if not loaded:
            raise CheckpointError(
                f"{self.path} shares no weights with {type(model).__name__}; it belongs to another network"
            )
        for name in loaded:
            _require_numbers(self.path, name, weights[name], own[name])
        model.load_state_dict({name: weights[name] for name in loaded}, strict=False)
        all_agree = len(loaded) == len(own) == len(weights)
        restored = []
        for name, part in zip(PARTS, (optimizer, scheduler, scaler), strict=True):
            if part is None or name not in self.payload or not all_agree:
                continue
            try:
                part.load_state_dict(self.payload[name])
            except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
                raise CheckpointError(
                    f"{self.path}: the state of the {name} does not fit this run's: {str(error)[:150]}"
                ) from None
            restored.append(name)
        # of another project's file they may be anything
        epoch, best_auc = self.payload.get("epoch"), self.payload.get("best_auc")
        return LoadReport(
            loaded=tuple(loaded),
            new=tuple(name for name in own if name not in weights),
            dropped=tuple(name for name in weights if name not in own),
            reshaped=tuple(name for name in common if name not in loaded),
            restored=tuple(restored),
            sizes={name: value.numel() for name, value in (weights | own).items()},
            epoch=epoch if isinstance(epoch, int) else None,
            best_auc=best_auc if isinstance(best_auc, float) else None,
        )


def load_checkpoint_flexible(
    path: str | Path,
    model: nn.Module,
    optimizer: Stateful | None = None,
    scheduler: Stateful | None = None,
    scaler: Stateful | None = None,
) -> LoadReport:
    """`Checkpoint.load_into` of the file; raises CheckpointError as it and `read_checkpoint` do."""
    return read_checkpoint(path).load_into(model, optimizer, scheduler, scaler)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Reads and checks the file: safetensors, or plain values written by torch.save (.pt, .pth).

    Raises CheckpointError for a file that is missing, damaged, something else, would have to run code to be read, or
    would take far more memory than it has bytes.
    """
    path = Path(path)
    content = _read(path)
    try:
        sha256 = _sha256(path, content)
        if content[8:9] == b"{" and not content.startswith(_ZIP):
            return Checkpoint(path, sha256, _safetensors_payload(path, content))
        return Checkpoint(path, sha256, _torch_payload(path, content))
    except _UNREADABLE as error:
        if kind := _kind_of(content):
            raise CheckpointError(f"{path} is {kind}, not a checkpoint; take another copy") from None
        if isinstance(error, pickle.UnpicklingError):
            raise CheckpointError(
                f"{path} is not a file of plain weights: it is damaged, or would have to run code to be read, which "
                "is refused; take another file"
            ) from None
        reason = textwrap.shorten(str(error) or type(error).__name__, 150, placeholder=" …")
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({reason}); take another copy"
        ) from None


def _read(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            size, free = os.fstat(file.fileno()).st_size, psutil.virtual_memory().available
            if 2 * size > free:
                raise CheckpointError(
                    f"{path} has {size / 1e9:.1f} GB, and reading it takes twice that; {free / 1e9:.1f} GB of memory "
                    "are free. Is it a checkpoint? Take another file or a larger machine"
                )
            return file.read()
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} does not exist; check the path (`dvc repro` or `dvc pull` makes those in weights/)"
        ) from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder, not a checkpoint; give a file") from None
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({error.strerror or error}); take another copy"
        ) from None


def _sha256(path: Path, content: bytes) -> str:
    """Of the file. Raises CheckpointError when it is a torch file whose own checksum does not hold.

    A torch file without a checksum, of another project, passes.
    """
    view, digest = memoryview(content), hashlib.sha256()
    end = content.rfind(_ZIP_END) + 20 if content.startswith(_ZIP) else 0  # the length of zip's comment
    if end >= 20 and content[end : end + 2] != b"\0\0":
        digest.update(view[:end])
        own = digest.copy()
        own.update(b"\0\0")  # the length of the comment when there was none
        if content[end + 2 :] != _SEAL + own.hexdigest().encode():
            raise _damaged(path)
        digest.update(view[end:])
    else:
        digest.update(view)
    return digest.hexdigest()


def _safetensors_payload(path: Path, content: bytes) -> dict[str, Any]:
    """Tensors under "model" beside our settings, or another project's tensors alone."""
    header_bytes = int.from_bytes(content[:8], "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise _refused(path, f"its header has {header_bytes} bytes, more than {MAX_HEADER_BYTES}")
    weights = safetensors.torch.load(content)  # checks that the tensors fill the file without a gap
    metadata = json.loads(content[8 : 8 + header_bytes]).get("__metadata__", {})
    if METADATA not in metadata:
        return cast(dict[str, Any], weights)
    settings = json.loads(metadata[METADATA])
    if not isinstance(settings, dict) or settings.pop("sha256", None) != _checksum(settings, weights):
        raise _damaged(path)
    return settings | {"model": weights}


def _torch_payload(path: Path, content: bytes) -> dict[str, Any]:
    """The dict that torch.save wrote; weights_only refuses to run code, and what it allows too much of is refused here.

    It would inflate compressed records, read overlapping ones many times, and fill bytearray(n) for any n.
    """
    if content.startswith(_ZIP):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            records = archive.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise _refused(path, "it is compressed, which torch never does")
        if sum(record.file_size for record in records) > len(content):
            raise _refused(path, "its records say that they hold more bytes than the file")
        if any(r.filename.endswith(".pkl") and r.file_size > MAX_PICKLE_BYTES for r in records):
            raise _refused(path, f"its names and plain values have more than {MAX_PICKLE_BYTES} bytes")
    if b"\nbytearray\n" in content:  # the only way that torch's reader of pickles knows to name it
        raise _refused(path, "it builds a byte array, which no checkpoint of weights holds")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch asks for a report of other pickle protocols
        payload = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(payload, dict):
        raise CheckpointError(f"{path} holds a {type(payload).__name__}, not a checkpoint; take another file")
    for tensor in _tensors_in(payload):
        plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided
        if not plain or tensor.device.type != "cpu" or tensor.is_quantized:
            raise _refused(path, f"it holds a {tensor.layout} tensor on {tensor.device}, not plain numbers")
        if tensor.numel() * tensor.element_size() > len(content):  # a view of few numbers as a billion
            shape = tuple(tensor.shape)[:8]
            raise _refused(path, f"it holds a tensor of shape {shape}, more than the file has bytes for")
    return payload


def _tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested containers, which may hold each other."""
    left, seen = [value], set[int]()
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict):
            left += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set):
            left += value


def _require_numbers(path: Path, name: str, value: Tensor, own: Tensor) -> None:
    """Raises CheckpointError for weights that are not finite, or of a kind that would change when it is copied."""
    if value.is_complex() or value.is_floating_point() != own.is_floating_point():
        raise CheckpointError(
            f"{path}: {name} holds {value.dtype} numbers, not {own.dtype}; take another copy"
        )
    if not value.to(own.dtype).isfinite().all():
        raise CheckpointError(f"{path}: {name} holds NaN or infinite numbers; take an earlier checkpoint")


def _kind_of(content: bytes) -> str:
    """What a file that cannot be read turns out to be; an empty string when its bytes do not say."""
    if not content:
        return "an empty file"
    if content.startswith(_ZIP) and _ZIP_END not in content:
        return "an archive that was cut short"
    return next((kind for start, kind in _FOREIGN.items() if content.startswith(start)), "")


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: its checksum does not hold; take another copy")


def _refused(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is refused: {why}; take a checkpoint from a source you trust")
