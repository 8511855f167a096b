"""Saving and loading a run's state and its weights, at full size: python -m benchmarks.checkpoint [--folder DIR]

The state of phase A's network after a step (weights, AdamW's two moments, moving average, weights of the best epoch),
as training saves it after every epoch. The reference is plain torch.save and torch.load, which do not sync, add no
checksum and do not keep the previous file. The weights alone are a safetensors file. Times depend on the disk; --folder
chooses one.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import torch

from benchmarks.harness import interleaved, print_table
from stf.config import STFV8Config, TrainingParams
from stf.models.checkpoint import read_checkpoint, save_checkpoint
from stf.models.network import build_network
from stf.training.checkpoint_folder import CheckpointFolder
from stf.training.identity import Origin
from stf.training.progress import Best, Progress
from stf.training.train_state import TrainState, build_train_state


def full_size_train_state(config: STFV8Config) -> tuple[TrainState, Progress]:
    """The state after one step, when every parameter has its moments."""
    train_state = build_train_state(
        build_network(config, "cpu"),
        config,
        TrainingParams(ema_decay=0.99),
        epochs=10,
        steps_per_epoch=10,
        device="cpu",
    )
    for parameter in train_state.objective.parameters():
        parameter.grad = torch.zeros_like(parameter)
    train_state.optimizer.step()
    weights = {name: value.clone() for name, value in train_state.evaluation_model.state_dict().items()}
    return train_state, Progress(1, 1, best=Best(1, 0.5, 0.7, weights))


@click.command()
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to write. [default: the system's temporary folder]",
)
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(min=1))
def main(folder: Path | None, repeats: int) -> None:
    """Time saving and loading a full-size training state, and weights, against torch.save and torch.load."""
    config = STFV8Config.phase_a()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        train_state, progress = full_size_train_state(config)
        checkpoints = CheckpointFolder(Path(scratch) / "ours", config, Origin("config", "data", "code"))
        checkpoints.keep_last(train_state, progress)
        payload, plain = read_checkpoint(checkpoints.path / "last.pt").payload, Path(scratch) / "plain.pt"
        works = {
            "torch.save": lambda: torch.save(payload, plain),
            "keep_last: copy, checksum, fsync": lambda: checkpoints.keep_last(train_state, progress),
        }
        megabytes = (checkpoints.path / "last.pt").stat().st_size / 1e6
        print_table(f"a state of {megabytes:.0f} MB", interleaved(works, repeats), "torch.save")
        works = {
            "torch.load": lambda: torch.load(plain, weights_only=True),
            "find: checksum, weights only": checkpoints.find,
        }
        print_table("the same, read", interleaved(works, repeats), "torch.load")

        model, weights = train_state.model, Path(scratch) / "weights.safetensors"
        works = {
            "torch.save": lambda: torch.save(model.state_dict(), plain),
            "save_checkpoint: copy, checksum, fsync": lambda: save_checkpoint(weights, model, config=config),
        }
        saved = interleaved(works, repeats)
        print_table(f"weights of {weights.stat().st_size / 1e6:.0f} MB", saved, "torch.save")
        works = {
            "torch.load": lambda: torch.load(plain, weights_only=True),
            "read_checkpoint: both checksums": lambda: read_checkpoint(weights),
        }
        print_table("the same, read", interleaved(works, repeats), "torch.load")


if __name__ == "__main__":
    main()
