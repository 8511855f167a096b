"""How far a run has come: its finished epochs, the steps of the one it is in, and the best of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from stf.training.records import EpochMeans, EpochRecord


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
    """Finished epochs, all optimizer steps, the records so far and the best of them.

    `means` are those of the steps of the epoch that runs, and `epoch_s` the seconds that it took so far.
    """

    epoch: int = 0
    global_step: int = 0
    means: EpochMeans = field(default_factory=EpochMeans)
    epoch_s: float = 0.0
    history: list[EpochRecord] = field(default_factory=list)
    best: Best | None = None
    stopped_by_budget: bool = False

    def end_epoch(self, record: EpochRecord) -> None:
        """Counts the epoch that runs as finished."""
        self.history.append(record)
        self.epoch += 1
        self.means, self.epoch_s = EpochMeans(), 0.0

    def place(self, steps_per_epoch: int) -> str:
        """'after epoch 3' or 'in epoch 4, after step 5 of 16'."""
        if self.means.steps == 0:
            return f"after epoch {self.epoch}"
        return f"in epoch {self.epoch + 1}, after step {self.means.steps} of {steps_per_epoch}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values and tensors, for a checkpoint; the epoch is the checkpoint's own."""
        return {
            "global_step": self.global_step,
            "means": self.means.as_dict(),
            "epoch_s": self.epoch_s,
            "history": [dataclasses.asdict(record) for record in self.history],
            "best": None if self.best is None else dict(vars(self.best)),
        }

    @classmethod
    def from_dict(cls, epoch: int, values: dict[str, Any]) -> Progress:
        """The inverse of `as_dict`; raises KeyError, TypeError or ValueError for anything else."""
        made = cls(
            epoch,
            values["global_step"],
            EpochMeans.from_dict(values["means"]),
            values["epoch_s"],
            [EpochRecord(**record) for record in values["history"]],
            None if values["best"] is None else Best(**values["best"]),
        )
        made._require_sense()
        return made

    def _require_sense(self) -> None:
        """Raises TypeError or ValueError for what no run leaves: a file that somebody changed."""
        counts = (self.epoch, self.global_step, self.means.steps, self.means.clips)
        if any(type(count) is not int or count < 0 for count in counts) or len(self.history) != self.epoch:
            raise ValueError("its epochs and steps do not agree")
        for record in self.history:
            for field_ in dataclasses.fields(record):
                kind = str if field_.type in (str, "str") else (int, float)
                if not isinstance(getattr(record, field_.name), kind):
                    raise TypeError(f"{field_.name} of an epoch is of another type")
        if self.best is not None:
            if self.best.epoch not in range(1, self.epoch + 1):
                raise ValueError("its best epoch is none of its epochs")
            if not all(isinstance(value, float) for value in (self.best.val_auc, self.best.val_loss)):
                raise TypeError("the figures of its best epoch are of another type")
