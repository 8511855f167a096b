"""A tiny train_state and clips without files: textured noise in which the fakes flicker."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stf.config import STFV8Config, TrainingParams
from stf.data.video_sbi_dataset import Provenance
from stf.errors import Interrupted
from stf.models.backbone_v73 import STFMambaV73
from stf.training.budget_tracker import BudgetStatus
from stf.training.checkpoint_folder import CheckpointFolder
from stf.training.identity import Origin
from stf.training.loop import Plan, fit
from stf.training.progress import Progress
from stf.training.records import EpochDetails, EpochRecord, StepRecord
from stf.training.step import Batch
from stf.training.train_state import TrainState, build_train_state

ORIGIN = Origin(config_hash="config", fingerprint="data", code="code")


def tiny_config(**fields: Any) -> STFV8Config:
    """STFV8Config.debug() without randomness in the forward pass, with phase A's loss."""
    quiet = {"dropout": 0.0, "drop_path": 0.0, "use_contrastive_hll": True, "use_hll_normalization": True}
    return replace(STFV8Config.debug(), **(quiet | {"grad_accum": 1, "warmup_epochs": 1} | fields))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and lose much where others use the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_train_state() -> Callable[..., TrainState]:
    """`make_train_state(seed=…, epochs=…, steps_per_epoch=…, ema_decay=…, **config fields)` on the CPU."""

    def make(
        seed: int = 0,
        epochs: int = 2,
        steps_per_epoch: int = 3,
        ema_decay: float = 0.0,
        device: str = "cpu",
        **fields: Any,
    ) -> TrainState:
        config = tiny_config(**fields)
        torch.manual_seed(seed)
        training = TrainingParams(backbone_lr_scale=0.1, ema_decay=ema_decay)
        return build_train_state(
            STFMambaV73(config),
            config,
            training,
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            device=device,
        )

    return make


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """`make_batch(n_pairs, seed=…)`: uint8 / 255 clips of the tiny size, real, fake, real, fake, …"""

    def make(n_pairs: int, seed: int = 0, failures: tuple[str, ...] = ()) -> Batch:
        config = STFV8Config.debug()
        generator = torch.Generator().manual_seed(seed)
        shape = (n_pairs, 3, config.num_frames, config.img_size, config.img_size)
        still = torch.rand(n_pairs, 3, 1, *shape[3:], generator=generator) * 0.5 + 0.25
        flicker = torch.randn(shape, generator=generator)
        pairs = torch.stack([still + 0.01 * flicker, still + 0.05 * flicker], 1).clamp(0, 1)
        provenances = [
            Provenance(f"{seed:03d}-{i}", 5 * i, (7, 0, i, 0), None, failures) for i in range(n_pairs)
        ]
        return Batch(
            video=(pairs.flatten(0, 1) * 255).round() * (1 / 255),
            label=torch.tensor([0, 1] * n_pairs),
            provenance=[p for p in provenances for _ in range(2)],
        )

    return make


class FakeBatches:
    """The loader of a run: `n_batches` per epoch, other clips in every epoch."""

    def __init__(self, make_batch: Callable[..., Batch], n_batches: int) -> None:
        self.make_batch, self.n_batches, self.epochs = make_batch, n_batches, []
        self.first_batch = 0

    def set_epoch(self, epoch: int, first_batch: int) -> None:
        self.epochs.append(epoch)
        self.first_batch = first_batch

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[Batch]:
        for i in range(self.first_batch, self.n_batches):
            yield self.make_batch(2, seed=100 * self.epochs[-1] + i)


@dataclass
class TinyRun:
    """Everything that `fit` takes, on tiny clips, and what it reported. `spent_usd` grows by $1 per look."""

    train_state: TrainState
    val: list[Batch]
    plan: Plan
    folder: CheckpointFolder
    train: FakeBatches
    max_usd: float
    steps: list[StepRecord]
    epochs: list[tuple[EpochRecord, EpochDetails]]
    spent_usd: float = 0.0
    stop_request: Callable[[], Interrupted | None] = lambda: None

    def check_budget(self) -> BudgetStatus:
        self.spent_usd += 1.0
        return BudgetStatus(self.spent_usd, 0.0, 0.0, self.spent_usd > self.max_usd, False)

    def fit(self, progress: Progress | None = None) -> Progress:
        def on_epoch(record: EpochRecord, details: EpochDetails) -> None:
            self.epochs.append((record, details))

        progress = progress or Progress()
        fit(
            self.train_state,
            self.train,
            self.val,
            self.plan,
            self.folder,
            progress,
            on_step=self.steps.append,
            on_epoch=on_epoch,
            check_budget=self.check_budget,
            stop_request=self.stop_request,
        )
        return progress


@pytest.fixture
def make_run(
    tmp_path: Path, make_train_state: Callable[..., TrainState], make_batch: Callable[..., Batch]
) -> Callable[..., TinyRun]:
    """`make_run(name, epochs=…, n_batches=…, max_usd=…, origin=…, **config fields)`."""

    def make(
        name: str = "run",
        epochs: int = 2,
        n_batches: int = 2,
        max_usd: float = math.inf,
        origin: Origin = ORIGIN,
        seed: int = 0,
        ema_decay: float = 0.0,
        **fields: Any,
    ) -> TinyRun:
        config = tiny_config(**fields)
        plan = Plan("a", epochs, config.grad_accum)
        train = FakeBatches(make_batch, n_batches)
        return TinyRun(
            train_state=make_train_state(
                seed=seed,
                epochs=epochs,
                steps_per_epoch=plan.steps_per_epoch(n_batches),
                ema_decay=ema_decay,
                **fields,
            ),
            val=[make_batch(3, seed=9), make_batch(1, seed=8)],
            plan=plan,
            folder=CheckpointFolder(tmp_path / name, config, origin),
            train=train,
            max_usd=max_usd,
            steps=[],
            epochs=[],
        )

    return make
