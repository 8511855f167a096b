"""A command for torchrun: trains tiny train_states on clips without files, and writes what every rank saw.

python -m tests.reference.training_ranks FOLDER             each of CASES, 20 optimizer steps or more
python -m tests.reference.training_ranks FOLDER --nan 12    then a run in which one rank meets a clip that is no number
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch

from pipeline.cli import command
from stf.config import STFV8Config, TrainingParams
from stf.data.pairs import PairBatchSampler
from stf.data.video_sbi_dataset import Provenance
from stf.io.distributed import World
from stf.io.processes import open_processes
from stf.models.backbone_v73 import STFMambaV73
from stf.training.budget_tracker import BudgetStatus
from stf.training.checkpoint_folder import CheckpointFolder
from stf.training.identity import Origin
from stf.training.loaders import RankShare, collate_share
from stf.training.loop import Plan, fit
from stf.training.progress import Progress
from stf.training.step import Batch
from stf.training.train_state import TrainState, build_train_state

QUIET = {"dropout": 0.0, "drop_path": 0.0, "warmup_epochs": 1}
CONTRASTIVE = QUIET | {"use_contrastive_hll": True, "use_hll_normalization": True}
# pairs per epoch, clips per batch, epochs, configuration. In a short last batch the first of 2 processes has 1 pair and
# the second none; in "one pair a batch" the second never has any.
CASES: dict[str, tuple[int, int, int, dict[str, Any]]] = {
    "contrastive": (13, 4, 3, CONTRASTIVE),
    "accumulated": (13, 4, 2, CONTRASTIVE | {"grad_accum": 2}),
    "reals alone": (5, 4, 2, QUIET | {"use_contrastive_hll": False, "use_hll_normalization": False}),
    "one pair a batch": (3, 2, 2, CONTRASTIVE),
    "float16's scaler": (5, 4, 2, CONTRASTIVE),
}
STEPS = 20


@dataclass
class Clips:
    """A loader of clips that are a function of (epoch, pair): noise in which fakes flicker more."""

    sampler: PairBatchSampler
    world: World
    poisoned: int | None = None  # the pair whose fake is no number

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int, first_batch: int) -> None:
        self.sampler.set_epoch(epoch, first_batch)

    def __iter__(self) -> Iterator[Batch]:
        for indices in RankShare(self.sampler, self.world):
            yield collate_share([self.item(epoch, index) for epoch, index in indices])

    def item(self, epoch: int, index: int) -> dict[str, Any]:
        pair, label = divmod(index, 2)
        config = STFV8Config.debug()
        random = torch.Generator().manual_seed(1000 * epoch + pair)
        still = torch.rand(3, 1, config.img_size, config.img_size, generator=random) * 0.5 + 0.25
        flicker = torch.randn(3, config.num_frames, config.img_size, config.img_size, generator=random)
        video = (still + (0.01, 0.05)[label] * flicker).clamp(0, 1)
        if pair == self.poisoned and label == 1:
            video[0, 0, 0, 0] = math.nan
        return {
            "video": video,
            "label": label,
            "provenance": Provenance(f"{pair:03d}", 0, (0, epoch, pair, 0), None),
        }


def learn(name: str, folder: Path, world: World, poisoned: int | None = None) -> dict[str, Any]:
    """Trains one of CASES, stops after the first epoch and goes on from its file; what this rank saw."""
    n_pairs, batch_size, epochs, fields = CASES[name]
    config = replace(STFV8Config.debug(), **({"grad_accum": 1} | fields))
    sampler = PairBatchSampler(n_pairs, batch_size, seed=1, shuffle=True)
    val_sampler = PairBatchSampler(3, batch_size, seed=1, shuffle=False)
    train, val = Clips(sampler, world, poisoned), Clips(val_sampler, world)
    plan, steps = Plan("a", epochs, config.grad_accum), []
    progress = Progress()
    checkpoints = CheckpointFolder(folder / name, config, Origin("config", "data", "code"))
    for until in (
        1,
        epochs,
    ):  # the second train_state starts from other weights, and from the first one's file
        torch.manual_seed(until)
        train_state = build_train_state(
            STFMambaV73(config),
            config,
            TrainingParams(ema_decay=0.9),
            epochs=epochs,
            steps_per_epoch=plan.steps_per_epoch(len(train)),
            device="cpu",
            world=world,
        )
        if name.startswith("float16"):
            train_state.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=True)
        if until > 1:
            world.exchange("rank 0 has written it")
            _, progress, _ = checkpoints.resume(folder / name / "last.pt", train_state)
        fit(
            train_state,
            train,
            val,
            replace(plan, epochs=until),
            checkpoints,
            progress,
            on_step=steps.append if world.is_main else None,
            on_epoch=None,
            check_budget=(lambda: BudgetStatus(0.0, 1.0, 1.0, False, False)) if world.is_main else None,
        )
    return {
        "steps": list(map(asdict, steps)),
        "epochs": list(map(asdict, progress.history)),
        "weights": digest_of(train_state),
    }


def digest_of(train_state: TrainState) -> str:
    """Over all that is trained and averaged."""
    tensors = [
        *train_state.model.state_dict().values(),
        *train_state.loss.parameters(),
        *train_state.evaluation_model.state_dict().values(),
    ]
    return hashlib.sha256(b"".join(t.detach().numpy().tobytes() for t in tensors)).hexdigest()


@command
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--nan", "poisoned", type=int, help="Then, the pair whose fake is no number.")
def main(folder: Path, poisoned: int | None) -> None:
    """Trains, and writes FOLDER/<rank>.json."""
    torch.set_num_threads(1)
    with open_processes() as world:
        seen = {name: learn(name, folder, world) for name in CASES}
        (folder / f"{world.rank}.json").write_text(json.dumps(seen), encoding="utf-8")
        click.echo(f"rank {world.rank} is through")
        if poisoned is not None:
            learn("contrastive", folder / "poisoned", world, poisoned)


if __name__ == "__main__":
    main()
