"""Hours and dollars of both phases, before anything is spent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from pipeline.cli import command, load_params, params_option
from stf.forecast.plan import GPUS

if TYPE_CHECKING:
    from stf.config import Params, PhaseName
    from stf.forecast.plan import Work


@command
@params_option
@click.option(
    "--seconds",
    default=60.0,
    show_default=True,
    type=click.FloatRange(min=1),
    help="About how long to measure.",
)
@click.option(
    "--assume-gpu",
    "gpu",
    type=click.Choice(sorted(GPUS), case_sensitive=False),
    help="Do not time the network; compute its rate on this GPU from an assumed share of the GPU's peak.",
)
@click.option(
    "--cores", type=click.IntRange(min=1), help="Cores of the machine to forecast for; default: those here."
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False),
    help="Where the JSON goes; default: checkpoints/forecast.json, or forecast_GPU.json with --assume-gpu.",
)
@click.option("--require", is_flag=True, help="Exit with 1 when the plan does not fit the budget.")
def main(
    params_path: str, seconds: float, gpu: str | None, cores: int | None, output: str | None, require: bool
) -> None:
    """Forecast hours and dollars of both phases from rates measured on this machine.

    Times pairs of clips, evaluation clips and training steps for about a minute, and reports what limits the training
    and whether the plan fits the budget. Every input is marked as measured here, given by the parameters, or assumed.
    Without the data on this machine it times made-up videos of FF++'s size, and takes FF++'s official counts.
    """
    import tempfile
    from pathlib import Path

    from stf.console.tables import make_console
    from stf.errors import TrainingError
    from stf.forecast.measure import has_data, measure_data
    from stf.forecast.plan import Figure
    from stf.forecast.report import STORED, forecast_plans, machine_key, print_forecast, store_forecast
    from stf.io.cores import usable_cores
    from stf.io.outputs import require_own_json
    from stf.io.paths import repository_root
    from stf.io.processes import set_up_runtime
    from stf.sample.hd import write_tree

    if output:
        require_own_json("--output", Path(output), "forecasts")
    params, console = load_params(params_path), make_console()
    device, cores = set_up_runtime(params.runtime), cores or usable_cores()
    root = params.data.root
    with console.status("timing clips"), tempfile.TemporaryDirectory(prefix="stf-forecast-") as folder:
        if not has_data(params):
            console.print(f"{root} is not here: made-up videos are timed, FF++'s counts are assumed")
            root, n_frames = f"{folder}/made-up", params.data.num_frames + 2
            write_tree(Path(root), frames=n_frames, quality=params.data.quality, recorded=("train",))
        n_processes = max(1, min(cores, params.runtime.num_workers))
        data = measure_data(params, root, Path(folder, "faces"), seconds / 3, n_processes)
    with console.status("timing the network"):
        works = works_of(params, data.videos)
        steps, plans = forecast_plans(params, works, data, device, seconds / 3, gpu=gpu, cores=cores)
    note = f"runtime.num_workers, on {cores} cores"
    figures = [
        *data.figures,
        Figure("loader processes", params.runtime.num_workers, "", "given", note),
        *steps,
    ]
    print_forecast(console, params, works, figures, plans)
    # a forecast of an assumed GPU does not replace the measured one, which training prints
    default = repository_root() / (STORED if gpu is None else f"checkpoints/forecast_{gpu}.json")
    path = Path(output) if output else default
    store_forecast(path, machine_key(params, gpu or device, cores), figures, plans)
    console.print(f"written to {path}", markup=False, soft_wrap=True)
    if require and not all(plan.holds for plan in plans):
        raise TrainingError("the plan does not fit the budget; see above for what helps")


def works_of(params: Params, videos: Mapping[str, int]) -> dict[PhaseName, Work]:
    """Both phases' clips from the number of real videos in each split; a test video has a fake of every method."""
    from stf.forecast.plan import Work

    data, evaluation = params.data, params.evaluation
    train = 2 * videos["train"] * data.train_pairs_per_video
    val = 2 * videos["val"] * data.val_pairs_per_video
    test = videos["test"] * (1 + len(evaluation.methods)) * evaluation.clips_per_video
    return {
        "a": Work(params.phase_a.epochs, train, val, test),
        "b": Work(params.phase_b.epochs, train, val, test),
    }


if __name__ == "__main__":
    main()
