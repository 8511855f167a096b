"""The folder outside DVC that remembers a run in progress: checkpoints/<config hash>/ holds

best.pt       weights, configuration and epoch of the best epoch so far: what becomes the DVC out
last.pt       how far the run has come, with everything that is needed to go on from there
previous.pt   last.pt before it was last written; what is used when last.pt is damaged
other.pt      a last.pt of other code or data, put aside; damaged.pt one that could not be read
trainer.json  who holds the folder
log.csv       a row per epoch
and what the budget (ledger) and tracking (mlflow_run.json) remember.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from stf.atomic import sweep
from stf.config import STFV8Config
from stf.errors import CheckpointError, TrainingError
from stf.files import read_json
from stf.models.checkpoint_file import write_atomically
from stf.models.weights import load_checkpoint_flexible, read_checkpoint, save_checkpoint
from stf.training.learner import Learner
from stf.training.progress import Best, Progress
from stf.training.snapshot import random_state_of, restore_learner, setting_of

LOCK_WAIT_S = 30.0  # as long as a trainer that was told to leave may take


@dataclass(frozen=True)
class Origin:
    """What must agree for a run to go on where another stopped."""

    config_hash: str
    fingerprint: str  # of the data
    code: str  # sha256 of the sources that training runs


@dataclass(frozen=True)
class Found:
    """The state on disk that a run goes on from, None without one, and what there is to tell about others."""

    path: Path | None
    payload: dict[str, Any] | None
    told: tuple[str, ...]


class CheckpointFolder:
    """Writes and reads the checkpoints of one configuration; each file is replaced in one step.

    Of several processes (learner.world) only rank 0 writes; all must call `keep_last` and `restore`, which are theirs
    together.
    """

    def __init__(self, path: str | Path, config: STFV8Config, origin: Origin) -> None:
        self.path, self._config, self._origin = Path(path), config, origin

    @property
    def identity(self) -> str:
        """Names the run whose state this is: the same after a restart, another one after a change."""
        return ":".join(dataclasses.astuple(self._origin))

    @contextmanager
    def locked(self, tell: Callable[[str], None] = print) -> Iterator[None]:
        """Holds the folder. Waits LOCK_WAIT_S for another process to leave, then raises TrainingError naming it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock", timeout=0)
            try:
                lock.acquire()
            except Timeout:
                tell(
                    f"waiting up to {LOCK_WAIT_S:.0f} s for {self._trainer()}, which trains this very configuration"
                )
                lock.acquire(timeout=LOCK_WAIT_S)
        except Timeout:
            raise TrainingError(
                f"another process is training this configuration: {self._trainer()} holds {self.path}. Wait for it, or "
                "end it (kill PID: it keeps its state first), and run this again"
            ) from None
        except OSError as error:
            raise CheckpointError(
                f"{self.path} cannot be written: {error.strerror or error}; checkpoints are kept there"
            ) from None
        try:
            sweep(self.path)
            self._sign()
            yield
        finally:
            lock.release()

    def _sign(self) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        holder = {"pid": os.getpid(), "host": platform.node(), "started": now}
        write_atomically(self.path / "trainer.json", json.dumps(holder).encode())

    def _trainer(self) -> str:
        try:
            holder = read_json(self.path / "trainer.json")
            return f"process {holder['pid']} on {holder['host']} (since {holder['started']})"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def keep_best(self, learner: Learner, best: Best, path: str | Path | None = None) -> None:
        """Writes the best weights to best.pt, or to `path`: weights, configuration and epoch only."""
        if not learner.world.is_main:
            return
        network = copy.deepcopy(learner.model)
        network.load_state_dict(best.weights)
        save_checkpoint(path or self.path / "best.pt", network, config=self._config, epoch=best.epoch)

    def keep_last(self, learner: Learner, progress: Progress) -> None:
        """last.pt := the whole state between two steps. The schedule is a function of global_step."""
        random_states = learner.world.exchange(random_state_of(learner.device))
        if not learner.world.is_main:
            return
        extra = dataclasses.asdict(self._origin) | progress.as_dict()
        extra["setting"] = setting_of(learner)
        extra["ema"] = None if learner.ema is None else learner.ema.module.state_dict()
        extra["rng"] = random_states  # by rank
        save_checkpoint(
            self.path / "last.pt",
            learner.model,
            config=self._config,
            epoch=progress.epoch,
            loss=learner.loss,
            optimizer=learner.optimizer,
            scaler=learner.scaler,
            extra=extra,
            previous=self.path / "previous.pt",
        )

    def find(self) -> Found:
        """The newest sound state of this very run; its payload is None when there is none.

        A state of other code or data is put aside, and so is a damaged one, for which the one before is taken. Raises
        CheckpointError when all there are are damaged.
        """
        told: list[str] = []
        last, previous = self.path / "last.pt", self.path / "previous.pt"
        for path in filter(Path.exists, (last, previous)):
            try:
                payload = read_checkpoint(path)
            except CheckpointError as error:
                told.append(str(error))
                continue
            if differs := self._difference(payload):
                return Found(None, None, (*told, self.put_aside(f"belongs to other {' and '.join(differs)}")))
            if told:
                os.replace(last, self.path / "damaged.pt")
                told.append(f"using the state before it; what is damaged is now {self.path / 'damaged.pt'}")
            return Found(path, payload, tuple(told))
        if told:
            raise CheckpointError(
                f"{'; '.join(told)}. No state is left to go on from; --fresh begins again, or move {self.path} away"
            )
        return Found(None, None, ())

    def put_aside(self, why: str) -> str:
        """Makes other.pt of the folder's state, so that it is not gone on from; returns what to tell."""
        kept = [path for path in (self.path / "last.pt", self.path / "previous.pt") if path.exists()]
        if not kept:
            return f"there is no state in {self.path}"
        other = self.path / "other.pt"
        os.replace(kept[0], other)
        for path in kept[1:]:
            path.unlink()
        return f"the state in {self.path} {why}: put aside as {other} (--resume {other} would go on from it)"

    def _difference(self, payload: dict[str, Any]) -> list[str]:
        """In what a state differs from this run: of config_hash, fingerprint and code."""
        extra = payload.get("extra")
        state = extra if isinstance(extra, dict) else {}
        return [name for name, value in dataclasses.asdict(self._origin).items() if state.get(name) != value]

    def resume(self, path: str | Path, learner: Learner) -> tuple[Progress, str]:
        """Goes on from `path` if it is a state of this configuration and data, else starts from its weights.

        Returns the progress and what to tell the user. Other code is told but accepted: the user names the file.
        Raises CheckpointError for a file that is neither.
        """
        payload = read_checkpoint(path)
        differs = self._difference(payload)
        if {"config_hash", "fingerprint"}.isdisjoint(differs):
            progress, note = self.restore(path, payload, learner)
            return progress, note + "".join(f" (it was written by other {name})" for name in differs)
        report = load_checkpoint_flexible(path, learner.model)
        if learner.ema is not None:
            learner.ema.set(learner.model)
        reason = f"the state of another {' and '.join(differs)}" if "extra" in payload else "weights alone"
        return Progress(), f"{path} holds {reason}: starting at epoch 1 from its weights\n{report.table()}"

    def restore(self, path: str | Path, payload: dict[str, Any], learner: Learner) -> tuple[Progress, str]:
        """Makes `learner` what it was when the state was written; returns the progress and a note on what differs.

        Raises CheckpointError, naming `path`, when it does not fit. The number of processes may differ from that which
        wrote it: a rank that the file does not know keeps its own fresh seed.
        """
        try:
            state = payload["extra"]
            progress = restore_learner(learner, payload, state)
            written, here = state["setting"], setting_of(learner)
        except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"{path} holds a training state that does not fit this version ({error}); --fresh begins again"
            ) from None
        if progress.best is not None:
            self.keep_best(learner, progress.best)  # the file may come from another folder
        changed = [
            f"{name} {written.get(name)} then, {value} now"
            for name, value in here.items()
            if written.get(name) != value
        ]
        note = f" (with {', '.join(changed)}: the last bits of the weights may differ)" if changed else ""
        return progress, note
