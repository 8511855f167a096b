"""The folder outside DVC that remembers a run in progress: checkpoints/<config hash>/ holds

best.pt       weights, configuration and epoch of the best epoch so far: what becomes the DVC out
last.pt       how far the run has come, with everything that is needed to go on from there
previous.pt   last.pt before it was last written; what is used when last.pt is damaged
other*.pt     a last.pt of other code, data or starting weights, put aside; before_fresh*.pt one that --fresh replaced
damaged.pt    one that could not be read
trainer.json  who holds the folder
log.csv       a row per epoch
mlflow/       what the training has logged, for its MLflow run
ledger        what the budget's plan has cost
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stf.config import STFV8Config
from stf.errors import CheckpointError
from stf.io.hashing import sha256_of
from stf.models.weights import load_checkpoint_flexible, read_checkpoint, save_checkpoint
from stf.training.identity import Origin
from stf.training.lock import locked
from stf.training.progress import Best, Progress
from stf.training.train_state import TrainState


@dataclass(frozen=True)
class Found:
    """The state on disk that a run goes on from, None without one, and what there is to tell about others."""

    path: Path | None
    payload: dict[str, Any] | None
    told: tuple[str, ...]


class CheckpointFolder:
    """Writes and reads the checkpoints of one configuration; each file is replaced in one step.

    Of several processes (train_state.world) only rank 0 writes; all must call `keep_last` and `restore` together.
    """

    def __init__(self, path: str | Path, config: STFV8Config, origin: Origin) -> None:
        self.path, self._config, self._origin = Path(path), config, origin
        self._last, self._previous = self.path / "last.pt", self.path / "previous.pt"

    @property
    def identity(self) -> str:
        """Names the run whose state this is: the same after a restart, another one after a change."""
        return ":".join(dataclasses.astuple(self._origin))

    @property
    def starts_from_weights(self) -> bool:
        """Whether the run started from weights that --resume named."""
        return self._origin.starting_weights != ""

    def locked(self, tell: Callable[[str], None] = print) -> AbstractContextManager[None]:
        """Holds the folder, see `stf.training.lock.locked`."""
        return locked(self.path, tell)

    def keep_best(self, train_state: TrainState, best: Best, path: str | Path | None = None) -> None:
        """Writes the best weights to best.pt, or to `path`: weights, configuration and epoch only."""
        if not train_state.world.is_main:
            return
        network = copy.deepcopy(train_state.model)
        network.load_state_dict(best.weights)
        save_checkpoint(path or self.path / "best.pt", network, config=self._config, epoch=best.epoch)

    def keep_last(self, train_state: TrainState, progress: Progress) -> None:
        """last.pt := the whole state between two steps. The schedule is a function of global_step."""
        random_states = train_state.world.all_gather(_random_state_of(train_state.device))
        if not train_state.world.is_main:
            return
        extra = dataclasses.asdict(self._origin) | progress.as_dict()
        extra["setting"] = _setting_of(train_state)
        extra["ema"] = None if train_state.ema is None else train_state.ema.module.state_dict()
        extra["rng"] = random_states  # by rank
        save_checkpoint(
            self._last,
            train_state.model,
            config=self._config,
            epoch=progress.epoch,
            loss=train_state.loss,
            optimizer=train_state.optimizer,
            scaler=train_state.scaler,
            extra=extra,
            previous=self._previous,
        )

    def find(self) -> Found:
        """The newest sound state of this very run; its payload is None when there is none.

        A state of other code, data or starting weights is put aside, and this run's own taken back that was put aside
        for another's. A damaged one is put aside too, and the one before it taken. Raises CheckpointError when all
        there are are damaged.
        """
        told: list[str] = []
        is_damaged = False
        for path in filter(Path.exists, (self._last, self._previous)):
            try:
                payload = read_checkpoint(path)
            except CheckpointError as error:
                told.append(str(error))
                is_damaged = True
                continue
            if is_damaged:
                told.append(f"using the state before it; what is damaged is now {self._put_damaged_aside()}")
            differs = self._difference(payload)
            if not differs:
                return Found(path, payload, tuple(told))
            told.append(self.put_aside(f"belongs to other {' and '.join(differs)}"))
            return self._taken_back(told)
        if told:
            raise CheckpointError(f"{'; '.join(told)}. No state is left to go on from; --fresh begins again")
        return self._taken_back(told)

    def _taken_back(self, told: list[str]) -> Found:
        """The newest state of this very run among those that were put aside for another's, as last.pt again."""
        for path in sorted(self.path.glob("other*.pt"), key=lambda path: path.stat().st_mtime, reverse=True):
            with contextlib.suppress(CheckpointError):
                payload = read_checkpoint(path)
                if not self._difference(payload):
                    os.replace(path, self._last)
                    told = [*told, f"{path.name} is of this very code and data: it is {self._last} again"]
                    return Found(self._last, payload, tuple(told))
        return Found(None, None, tuple(told))

    def put_aside(self, why: str, name: str = "other") -> str:
        """Renames the folder's newest sound state, so that it is not gone on from; returns what to tell.

        It becomes `name`.pt, `name`-2.pt, …: what was put aside earlier stays.
        """
        if self._last.exists() and self._previous.exists() and not _is_sound(self._last):
            self._put_damaged_aside()
        kept = [path for path in (self._last, self._previous) if path.exists()]
        if not kept:
            return f"there is no state in {self.path}"
        names = (f"{name}.pt" if n == 1 else f"{name}-{n}.pt" for n in itertools.count(1))
        other = next(path for path in map(self.path.joinpath, names) if not path.exists())
        os.replace(kept[0], other)
        for path in kept[1:]:
            path.unlink()
        return f"the state in {self.path} {why}: put aside as {other} (--resume {other} would go on from it)"

    def _put_damaged_aside(self) -> Path:
        return self._last.replace(self.path / "damaged.pt")

    def _difference(self, payload: dict[str, Any]) -> list[str]:
        """In what a state differs from this run: of config_hash, fingerprint, code and starting weights."""
        extra = payload.get("extra")
        state = {"starting_weights": ""} | (extra if isinstance(extra, dict) else {})
        wanted = dataclasses.asdict(self._origin)
        return [name.replace("starting_", "starting ") for name in wanted if state.get(name) != wanted[name]]

    def resume(
        self, path: str | Path, train_state: TrainState, tell: Callable[[str], None] = print
    ) -> tuple[Path, Progress, str]:
        """Goes on from `path` if it is a state of this configuration and data, else starts from its weights.

        Returns the file that is gone on from, the progress, and what to tell the user. Other code is told but accepted:
        the user names the file. What starts from weights is another run than what starts from none: a state of the one
        is not taken for one of the other, and is gone on from when the same weights are named again. Raises
        CheckpointError for a file that is neither.
        """
        payload = read_checkpoint(path)
        if {"config_hash", "fingerprint"}.isdisjoint(self._difference(payload)):
            start = payload["extra"].get("starting_weights", "")
            self._origin = dataclasses.replace(self._origin, starting_weights=start)
            progress, note = self.restore(path, payload, train_state)
            differs = self._difference(payload)
            return (
                Path(path),
                progress,
                note + "".join(f" (it was written by other {name})" for name in differs),
            )
        digest = sha256_of(path)
        self._origin = dataclasses.replace(self._origin, starting_weights=digest)
        found = train_state.world.broadcast(self.find)
        for told in found.told:
            tell(told)
        if found.path is not None and found.payload is not None:
            return found.path, *self.restore(found.path, found.payload, train_state)
        report = load_checkpoint_flexible(path, train_state.model)
        if train_state.ema is not None:
            train_state.ema.set(train_state.model)
        differs = [name for name in self._difference(payload) if name != "starting weights"]
        reason = f"the state of another {' and '.join(differs)}" if "extra" in payload else "weights alone"
        told = f"{path} holds {reason}: starting at epoch 1 from its weights\n{report.table()}"
        return Path(path), Progress(), told

    def restore(
        self, path: str | Path, payload: dict[str, Any], train_state: TrainState
    ) -> tuple[Progress, str]:
        """Makes `train_state` what it was when the state was written; returns the progress and a note on what differs.

        Raises CheckpointError, naming `path`, when it does not fit. The number of processes may differ from that which
        wrote it: a rank that the file does not know keeps its own fresh seed.
        """
        try:
            state = payload["extra"]
            progress = _restore_train_state(train_state, payload, state)
            written, here = state["setting"], _setting_of(train_state)
            changed = [
                f"{name} {written.get(name)} then, {value} now"
                for name, value in here.items()
                if written.get(name) != value
            ]
            if progress.best is not None:
                self.keep_best(train_state, progress.best)  # the file may come from another folder
        except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"{path} holds a training state that does not fit this version ({str(error)[:150]}); --fresh begins "
                "again"
            ) from None
        note = f" (with {', '.join(changed)}: the last bits of the weights may differ)" if changed else ""
        return progress, note


def _is_sound(path: Path) -> bool:
    try:
        read_checkpoint(path)
    except CheckpointError:
        return False
    return True


def _restore_train_state(train_state: TrainState, payload: dict[str, Any], state: dict[str, Any]) -> Progress:
    """Makes `train_state` what it was when `payload` was written, with its part `state`; returns how far it was.

    Raises KeyError, TypeError, ValueError or RuntimeError for the state of another network or version.
    """
    progress = Progress.from_dict(payload["epoch"], state)
    for weights in (payload["model"], state["ema"] or {}, progress.best.weights if progress.best else {}):
        _require_finite(weights)
    train_state.model.load_state_dict(payload["model"])
    train_state.loss.load_state_dict(payload["loss"])
    train_state.optimizer.load_state_dict(payload["optimizer"])
    _require_moments_that_fit(train_state)
    train_state.scaler.load_state_dict(payload["scaler"])
    train_state.schedule.step_update(progress.global_step)
    if train_state.ema is not None:
        train_state.ema.module.load_state_dict(state["ema"])
    if train_state.world.rank < len(state["rng"]):
        _set_random_state(state["rng"][train_state.world.rank], train_state.device)
    return progress


def _require_finite(weights: dict[str, Tensor]) -> None:
    for name, value in weights.items():
        if not value.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinite numbers")


def _require_moments_that_fit(train_state: TrainState) -> None:
    for parameter, moments in train_state.optimizer.state.items():
        for moment in moments.values():
            if isinstance(moment, Tensor) and moment.dim() > 0 and moment.shape != parameter.shape:
                raise ValueError("the optimizer's moments are of another network")


def _setting_of(train_state: TrainState) -> dict[str, Any]:
    """On what the bits of a result depend beside parameters, data and code."""
    return {
        "device": train_state.device.type,
        "threads": torch.get_num_threads(),
        "processes": train_state.world.size,
        "torch": str(torch.__version__),
    }


def _random_state_of(device: torch.device) -> dict[str, Tensor]:
    """The states of this process's two streams: dropout draws from the device's."""
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
