"""A command for torchrun: trains tiny train_states on clips without files, and writes what every rank saw.

python -m tests.reference.training_ranks FOLDER                               each of CASES
python -m tests.reference.training_ranks FOLDER --more                        each of MORE_CASES
python -m tests.reference.training_ranks FOLDER --failure backward --rank 1   one run, in which this rank fails
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import timm
import torch
from safetensors.torch import save_file

from pipeline.cli import command
from stf.config import FLAGS, STFV8Config, TrainingParams
from stf.data.pairs import EpochIndex, PairBatchSampler
from stf.data.video_sbi_dataset import Provenance
from stf.errors import DataError
from stf.io.distributed import World
from stf.io.processes import open_processes
from stf.models.checkpoint import read_checkpoint
from stf.models.checkpointing import use_checkpointing
from stf.models.network import build_network
from stf.models.spatial_weights import load_spatial_weights
from stf.training.budget_tracker import BudgetStatus
from stf.training.checkpoint_folder import CheckpointFolder
from stf.training.identity import Origin
from stf.training.loaders import RankBatches, collate_batch
from stf.training.loop import Plan, fit
from stf.training.progress import Progress
from stf.training.step import Batch
from stf.training.train_state import TrainState, build_train_state

DATA_FLAGS = ("use_compression_aug", "use_multiscale_drift")  # they change clips only
QUIET = {"dropout": 0.0, "drop_path": 0.0, "warmup_epochs": 1}
CONTRASTIVE = QUIET | {"use_contrastive_hll": True, "use_hll_normalization": True}
TIMM = QUIET | {"spatial_backbone": "timm:convnextv2_atto"}
# pairs per epoch, clips per batch, epochs, configuration; a last short batch is dropped
CASES: dict[str, tuple[int, int, int, dict[str, Any]]] = {
    "contrastive": (15, 4, 3, CONTRASTIVE),
    "accumulated": (15, 4, 2, CONTRASTIVE | {"grad_accum": 2}),
    "reals alone": (5, 4, 2, QUIET | {"use_contrastive_hll": False, "use_hll_normalization": False}),
    "float16's scaler": (5, 4, 2, CONTRASTIVE),
    "all flags": (4, 4, 2, QUIET | dict.fromkeys(FLAGS, True)),
}
MORE_CASES: dict[str, tuple[int, int, int, dict[str, Any]]] = {
    "checkpointing": (4, 4, 2, CONTRASTIVE),
    "frozen timm stem": (4, 4, 2, TIMM | {"spatial_frozen": True}),
    "trained timm stem": (4, 4, 2, TIMM | {"spatial_frozen": False}),
    # DistributedDataParallel stops in the second step when a parameter had no gradient in the first
    **{flag: (4, 4, 2, QUIET | {flag: True}) for flag in FLAGS if flag not in DATA_FLAGS},
}
STEPS = 20
FAILING_STEP = 3
FAILURES = ("nan", "loader", "forward", "backward", "killed")


@dataclass
class Clips:
    """A loader of clips that are a function of (epoch, pair): noise in which fakes flicker more."""

    sampler: PairBatchSampler
    batches: Iterable[Sequence[EpochIndex]]
    failure: str = ""  # one of FAILURES, in this process's step FAILING_STEP

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int, first_batch: int) -> None:
        self.sampler.set_epoch(epoch, first_batch)

    def __iter__(self) -> Iterator[Batch]:
        for step, indices in enumerate(self.batches, 1):
            batch = collate_batch([self.item(epoch, index) for epoch, index in indices])
            yield self.broken(batch) if self.failure and step == FAILING_STEP else batch

    def broken(self, batch: Batch) -> Batch:
        if self.failure == "loader":
            raise DataError("a torn picture")
        if self.failure == "nan":
            batch.video[1, 0, 0, 0] = math.nan
            return batch
        video = batch.video.requires_grad_()
        if self.failure == "killed":
            video.register_hook(lambda _: os.kill(os.getpid(), signal.SIGKILL))
        elif self.failure == "backward":
            video.register_hook(lambda _: 1 / 0)
        else:
            video = video[..., :-1]  # of a size that the network does not take
        return batch._replace(video=video)

    def item(self, epoch: int, index: int) -> dict[str, Any]:
        pair, label = divmod(index, 2)
        config = STFV8Config.debug()
        random = torch.Generator().manual_seed(1000 * epoch + pair)
        still = torch.rand(3, 1, config.img_size, config.img_size, generator=random) * 0.5 + 0.25
        flicker = torch.randn(3, config.num_frames, config.img_size, config.img_size, generator=random)
        video = (still + (0.01, 0.05)[label] * flicker).clamp(0, 1)
        return {
            "video": video,
            "label": label,
            "provenance": Provenance(f"{pair:03d}", 0, (0, epoch, pair, 0), None),
        }


def learn(name: str, folder: Path, world: World, failure: str = "") -> dict[str, Any]:
    """Trains one of CASES or MORE_CASES, stops after the first epoch and resumes from its file; what this rank saw."""
    n_pairs, batch_size, epochs, fields = (CASES | MORE_CASES)[name]
    config = replace(STFV8Config.debug(), **({"grad_accum": 1} | fields))
    if config.spatial_backbone == TIMM["spatial_backbone"]:
        config = replace(config, spatial_weights=timm_weights(folder, world))
    sampler = PairBatchSampler(n_pairs, batch_size, seed=1, shuffle=True, drop_last=True)
    val_sampler = PairBatchSampler(3, batch_size // world.size, seed=1, shuffle=False)
    train = Clips(sampler, RankBatches(sampler, world), failure)
    val = Clips(val_sampler, world.shard(list(val_sampler)))
    plan, steps = Plan("a", epochs, config.grad_accum), []
    progress = Progress()
    checkpoints = CheckpointFolder(folder / name, config, Origin("config", "data", "code"))
    for until in (1, epochs):  # the second train state has other weights, which the first one's file replaces
        torch.manual_seed(until + 10 * world.rank)  # and other processes other ones, which rank 0's replace
        network = build_network(config)
        load_spatial_weights(network, config)
        use_checkpointing(network, name == "checkpointing")
        train_state = build_train_state(
            network,
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
            world.barrier()  # rank 0 has written it
            _, progress, _ = checkpoints.resume(read_checkpoint(folder / name / "last.pt"), train_state)
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
        "names": list(train_state.model.state_dict()),
    }


def timm_weights(folder: Path, world: World) -> str:
    """Random weights of the whole timm network, in a file that rank 0 writes."""
    file = folder / "timm.safetensors"
    if world.is_main and not file.exists():
        folder.mkdir(exist_ok=True)
        torch.manual_seed(5)
        save_file(timm.create_model(TIMM["spatial_backbone"].removeprefix("timm:")).state_dict(), file)
    world.barrier()
    return str(file)


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
@click.option("--more", is_flag=True, help="MORE_CASES instead of CASES.")
@click.option(
    "--failure", type=click.Choice(FAILURES), help="Only one run, in which a process fails like this."
)
@click.option("--rank", "failing_rank", default=1, help="The process that fails.")
def main(folder: Path, more: bool, failure: str | None, failing_rank: int) -> None:
    """Trains, and writes FOLDER/<rank>.json."""
    torch.set_num_threads(1)
    with open_processes() as world:
        if failure is not None:
            learn("contrastive", folder, world, failure if world.rank == failing_rank else "")
            return
        results = {name: learn(name, folder, world) for name in (MORE_CASES if more else CASES)}
        (folder / f"{world.rank}.json").write_text(json.dumps(results), encoding="utf-8")
        click.echo(f"rank {world.rank} has finished")


if __name__ == "__main__":
    main()
