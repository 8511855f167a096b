"""The folder outside DVC that holds a run in progress: checkpoints/<config hash>/ contains

best.safetensors  weights, configuration and epoch of the best epoch so far: what becomes the DVC out
last.pt           the whole state of the run, from which it is resumed
previous.pt       last.pt before it was last written; used when last.pt is damaged
other*.pt         a last.pt of other code, data or starting weights, moved aside
before_fresh*.pt  a last.pt that --fresh replaced
damaged.pt        one that could not be read
trainer.json      which process holds the folder
log.csv           a row per epoch
mlflow/           what the training has logged, for its MLflow run
ledger            what the budget's plan has cost
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stf.config import STFV8Config
from stf.errors import CheckpointError
from stf.models.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from stf.training.identity import Origin
from stf.training.lock import locked
from stf.training.progress import Best, Progress
from stf.training.train_state import TrainState

BEST = "best.safetensors"


class CheckpointFolder:
    """Writes and reads the checkpoints of one configuration; each file is replaced in one step.

    Of several processes (train_state.world) only rank 0 writes; all must call `keep_last` and `restore` together.
    """

    def __init__(self, path: str | Path, config: STFV8Config, origin: Origin) -> None:
        self.path, self._config, self._origin = Path(path), config, origin
        self._last, self._previous = self.path / "last.pt", self.path / "previous.pt"

    @property
    def identity(self) -> str:
        """Identifies the run whose state this is: the same after a restart, another one after a change."""
        return ":".join(dataclasses.astuple(self._origin))

    @property
    def starts_from_weights(self) -> bool:
        """Whether the run started from weights that were given by --resume."""
        return self._origin.starting_weights != ""

    def locked(self, report: Callable[[str], None] = print) -> AbstractContextManager[None]:
        """Holds the folder, see `stf.training.lock.locked`."""
        return locked(self.path, report)

    def keep_best(self, train_state: TrainState, best: Best, path: str | Path | None = None) -> None:
        """Writes the best weights, configuration and epoch to best.safetensors, or to `path`."""
        if not train_state.world.is_main:
            return
        network = copy.deepcopy(train_state.model)
        network.load_state_dict(best.weights)
        save_checkpoint(path or self.path / BEST, network, config=self._config, epoch=best.epoch)

    def keep_last(self, train_state: TrainState, progress: Progress) -> None:
        """Writes last.pt, the whole state between two steps. The schedule is a function of global_step."""
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

    def find(self) -> tuple[Checkpoint | None, list[str]]:
        """(newest undamaged state of this run or None, messages for the user).

        A state of other code, data or starting weights is moved aside, and a state of this run that was moved aside
        earlier is restored. A damaged one is moved aside too, and the one before it is used. Raises CheckpointError
        when all there are are damaged.
        """
        messages: list[str] = []
        is_damaged = False
        for path in filter(Path.exists, (self._last, self._previous)):
            try:
                state = read_checkpoint(path)
            except CheckpointError as error:
                messages.append(str(error))
                is_damaged = True
                continue
            if is_damaged:
                damaged = self._last.replace(self.path / "damaged.pt")
                messages.append(f"using the state before it; the damaged one is now {damaged}")
            differences = self._differences(state)
            if not differences:
                return state, messages
            messages.append(self.move_aside(f"belongs to other {' and '.join(differences)}"))
            return self._moved_back(messages)
        if messages:
            raise CheckpointError(
                f"{'; '.join(messages)}. No usable state is left; --fresh starts again at epoch 1"
            )
        return self._moved_back(messages)

    def _moved_back(self, messages: list[str]) -> tuple[Checkpoint | None, list[str]]:
        """The newest state of this run among those that were moved aside for another's, as last.pt again."""
        for path in sorted(self.path.glob("other*.pt"), key=lambda path: path.stat().st_mtime, reverse=True):
            with contextlib.suppress(CheckpointError):
                state = read_checkpoint(path)
                if not self._differences(state):
                    os.replace(path, self._last)
                    message = f"{path.name} is of this code and data: it is {self._last} again"
                    return dataclasses.replace(state, path=self._last), [*messages, message]
        return None, messages

    def move_aside(self, reason: str, name: str = "other") -> str:
        """Renames the newest undamaged state, so that it is not resumed; returns a message for the user.

        It becomes `name`.pt, `name`-2.pt, …: what was moved aside earlier stays.
        """
        if self._last.exists() and self._previous.exists() and not _is_readable(self._last):
            self._last.replace(self.path / "damaged.pt")
        states = [path for path in (self._last, self._previous) if path.exists()]
        if not states:
            return f"there is no state in {self.path}"
        names = (f"{name}.pt" if n == 1 else f"{name}-{n}.pt" for n in itertools.count(1))
        aside = next(path for path in map(self.path.joinpath, names) if not path.exists())
        os.replace(states[0], aside)
        for path in states[1:]:
            path.unlink()
        return f"the state in {self.path} {reason}: moved to {aside} (resume it with --resume {aside})"

    def _differences(self, state: Checkpoint) -> list[str]:
        """Which of config_hash, fingerprint, code and starting weights differ between a state and this run."""
        extra = state.payload.get("extra")
        theirs = {"starting_weights": ""} | (extra if isinstance(extra, dict) else {})
        ours = dataclasses.asdict(self._origin)
        return [name.replace("starting_", "starting ") for name in ours if theirs.get(name) != ours[name]]

    def resume(
        self, given: Checkpoint, train_state: TrainState, report: Callable[[str], None] = print
    ) -> tuple[Path, Progress, str]:
        """Resumes from a file if it is a state of this configuration and data, else starts from its weights.

        Returns the file that was used, the progress, and a message for the user. Other code is reported but accepted:
        the user chose the file. A run that starts from weights is another run than one that starts from none: neither
        takes the other's state, and it is resumed when the same weights are given again. Raises CheckpointError for a
        file that is neither.
        """
        if {"config_hash", "fingerprint"}.isdisjoint(self._differences(given)):
            start = given.payload["extra"].get("starting_weights", "")
            self._origin = dataclasses.replace(self._origin, starting_weights=start)
            progress, note = self.restore(given, train_state)
            others = "".join(f" (it was written by other {name})" for name in self._differences(given))
            return given.path, progress, note + others
        self._origin = dataclasses.replace(self._origin, starting_weights=given.sha256)
        state, messages = train_state.world.broadcast(self.find)
        for message in messages:
            report(message)
        if state is not None:
            return state.path, *self.restore(state, train_state)
        load_report = given.load_into(train_state.model)
        if train_state.ema is not None:
            train_state.ema.set(train_state.model)
        differences = [name for name in self._differences(given) if name != "starting weights"]
        held = (
            f"the state of another {' and '.join(differences)}"
            if "extra" in given.payload
            else "weights alone"
        )
        message = f"{given.path} holds {held}: starting at epoch 1 from its weights\n{load_report.table()}"
        return given.path, Progress(), message

    def restore(self, state: Checkpoint, train_state: TrainState) -> tuple[Progress, str]:
        """Makes `train_state` what it was when the state was written; returns the progress and a note on differences.

        Raises CheckpointError when it does not fit. The number of processes may differ from that which wrote it: a rank
        that the file does not know keeps its own fresh seed.
        """
        try:
            progress = _restore_train_state(train_state, state.payload, state.payload["extra"])
            written, here = state.payload["extra"]["setting"], _setting_of(train_state)
            changes = [
                f"{name} {written.get(name)} then, {value} now"
                for name, value in here.items()
                if written.get(name) != value
            ]
            if progress.best is not None:
                self.keep_best(train_state, progress.best)  # the file may come from another folder
        except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"{state.path} holds a training state that does not fit this version ({str(error)[:150]}); --fresh "
                "starts again at epoch 1"
            ) from None
        note = f" (with {', '.join(changes)}: the last bits of the weights may differ)" if changes else ""
        return progress, note


def _is_readable(path: Path) -> bool:
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
    """What the bits of a result depend on beside parameters, data and code."""
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
