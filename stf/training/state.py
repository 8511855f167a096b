"""How far a run has come, and the folder outside DVC that remembers it: checkpoints/<config hash>/ holds

best.pt      weights, configuration and epoch of the best epoch so far: what becomes the DVC out
last.pt      the same of the last whole epoch, with everything that is needed to go on from there
ledger.json  what phase A has cost (budget_tracker); ledger_b_<hash>.json, beside it, what a phase B from it has
log.csv      a row per epoch
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from stf.config import Params, STFV8Config
from stf.errors import CheckpointError, TrainingError
from stf.models.weights import load_checkpoint_flexible, read_checkpoint, save_checkpoint
from stf.training.learner import Learner
from stf.training.records import EpochRecord

# The phase's own section comes on top; budget and runtime change no step.
_SECTIONS = ("seed", "data", "sbi", "model", "training")


def config_hash(params: Params, phase: Literal["a", "b"], starting_weights: str | None = None) -> str:
    """16 hex digits over all that changes the phase's training; phase A's hash names a budget's plan.

    `starting_weights` is the sha256 of the checkpoint that phase B starts from: the state of a phase B from other
    weights is another run's.
    """
    values = dataclasses.asdict(params)
    seen = {name: values[name] for name in (*_SECTIONS, f"phase_{phase}")}
    seen[f"phase_{phase}"].pop("min_phase_a_auc", None)  # whether phase B starts, not how it goes
    if starting_weights is not None:
        seen["starting_weights"] = starting_weights
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Best:
    """The best epoch: by validation AUC, then by the lower validation loss, then the earlier one."""

    epoch: int
    val_auc: float
    val_loss: float
    weights: dict[str, Tensor]  # on the CPU

    def beats(self, other: Best | None) -> bool:
        """Whether this epoch takes the place of `other`."""
        return other is None or (self.val_auc, -self.val_loss) > (other.val_auc, -other.val_loss)


@dataclass
class Progress:
    """Finished epochs, optimizer steps, the records so far and the best of them."""

    epoch: int = 0
    global_step: int = 0
    history: list[EpochRecord] = field(default_factory=list)
    best: Best | None = None
    stopped_by_budget: bool = False


@dataclass(frozen=True)
class Origin:
    """What must agree for a run to go on where another stopped."""

    config_hash: str
    fingerprint: str  # of the data


class CheckpointFolder:
    """Writes and reads the checkpoints of one configuration; each file is replaced in one step.

    Of several processes (learner.world) only rank 0 writes; all must call `keep_last` and `resume`, which are theirs
    together.
    """

    def __init__(self, path: str | Path, config: STFV8Config, origin: Origin) -> None:
        self.path, self._config, self._origin = Path(path), config, origin

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder; raises TrainingError when another process trains the same configuration."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise TrainingError(
                f"another process is training this configuration (it holds {self.path / '.lock'}); wait for "
                "it, or end it: a trainer goes on when only dvc is killed"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def keep_best(self, learner: Learner, best: Best, path: str | Path | None = None) -> None:
        """Writes the best weights to best.pt, or to `path`: weights, configuration and epoch only."""
        if not learner.world.is_main:
            return
        network = copy.deepcopy(learner.model)
        network.load_state_dict(best.weights)
        save_checkpoint(path or self.path / "best.pt", network, config=self._config, epoch=best.epoch)

    def keep_last(self, learner: Learner, progress: Progress) -> None:
        """last.pt := the whole state after a finished epoch. The schedule is a function of global_step."""
        random_states = learner.world.exchange(_random_state(learner.device))
        if not learner.world.is_main:
            return
        best = None if progress.best is None else dict(vars(progress.best))
        extra = dataclasses.asdict(self._origin) | {
            "global_step": progress.global_step,
            "history": [dataclasses.asdict(record) for record in progress.history],
            "best": best,
            "ema": None if learner.ema is None else learner.ema.module.state_dict(),
            "rng": random_states,  # by rank
            "device": learner.device.type,
            "threads": torch.get_num_threads(),
        }
        save_checkpoint(
            self.path / "last.pt",
            learner.model,
            config=self._config,
            epoch=progress.epoch,
            loss=learner.loss,
            optimizer=learner.optimizer,
            scaler=learner.scaler,
            extra=extra,
        )

    def resume(self, path: str | Path, learner: Learner) -> tuple[Progress, str]:
        """Goes on from `path` if it is a state of this configuration and data, else starts from its weights.

        Returns the progress and what to tell the user. Raises CheckpointError for a file that is neither. The number
        of processes may differ from that which wrote it: a rank that the file does not know keeps its own fresh seed.
        """
        payload = read_checkpoint(path)
        extra = payload.get("extra")
        state = extra if isinstance(extra, dict) else {}
        differs = [
            name for name, value in dataclasses.asdict(self._origin).items() if state.get(name) != value
        ]
        if differs:
            report = load_checkpoint_flexible(path, learner.model)
            if learner.ema is not None:
                learner.ema.set(learner.model)
            reason = f"the state of another {' and '.join(differs)}" if state else "weights alone"
            told = f"{path} holds {reason}: starting at epoch 1 from its weights\n{report.table()}"
            return Progress(), told
        try:
            progress = _restore(learner, payload, state)
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise CheckpointError(
                f"{path} holds a training state that does not fit this version: {error}"
            ) from None
        if progress.best is not None:
            self.keep_best(learner, progress.best)  # the file may come from another folder
        return progress, f"going on from {path} after epoch {progress.epoch}"


def _restore(learner: Learner, payload: dict[str, Any], state: dict[str, Any]) -> Progress:
    learner.model.load_state_dict(payload["model"])
    learner.loss.load_state_dict(payload["loss"])
    learner.optimizer.load_state_dict(payload["optimizer"])
    learner.scaler.load_state_dict(payload["scaler"])
    learner.schedule.step_update(state["global_step"])
    if learner.ema is not None:
        learner.ema.module.load_state_dict(state["ema"])
    if learner.world.rank < len(state["rng"]):
        _set_random_state(state["rng"][learner.world.rank], learner.device)
    best = None if state["best"] is None else Best(**state["best"])
    history = [EpochRecord(**record) for record in state["history"]]
    return Progress(payload["epoch"], state["global_step"], history, best)


def _random_state(device: torch.device) -> dict[str, Tensor]:
    """Of this process's two streams: dropout draws from the device's."""
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
