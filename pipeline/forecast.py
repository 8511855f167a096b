"""Hours and dollars of both phases, before anything is spent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pipeline.cli import command, load_params, params_option
from stf.forecast.forecast import GPUS, UTILISATION
from stf.io.paths import DATA_JSON, repository_root

if TYPE_CHECKING:
    from stf.config import Params, PhaseName
    from stf.forecast.data import DataFigures
    from stf.forecast.forecast import Figure
    from stf.forecast.plan import Scenario


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
    help="Do not time the network here; compute its rate on this GPU from an assumed share of the GPU's peak.",
)
@click.option(
    "--cores", type=click.IntRange(min=1), help="Cores of the machine that is meant; default: those here."
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False),
    help="Where the JSON goes; default: checkpoints/forecast.json, or forecast_GPU.json with --assume-gpu.",
)
@click.option("--require", is_flag=True, help="Exit with 1 when the budget does not hold.")
def main(
    params_path: str, seconds: float, gpu: str | None, cores: int | None, output: str | None, require: bool
) -> None:
    """Forecast hours and dollars of both phases from rates measured on this machine.

    Times pairs of clips, evaluation clips and training steps for about a minute, and says what bounds the training and
    whether the budget holds. Every input is marked as measured here, given by the parameters, or assumed. Without the
    data on this machine it times made-up videos of FF++'s size, and takes FF++'s official counts.
    """
    import tempfile
    from pathlib import Path

    from stf.console.tables import make_console
    from stf.errors import TrainingError
    from stf.forecast.data import has_data, measure_data
    from stf.forecast.forecast import Figure
    from stf.forecast.line import STORED, machine_key
    from stf.forecast.plan import store_forecast
    from stf.forecast.report import print_forecast
    from stf.io.cores import usable_cores
    from stf.io.outputs import require_own_json
    from stf.io.processes import set_up_runtime

    if output:
        require_own_json("--output", Path(output), "forecasts")
    params, console = load_params(params_path), make_console()
    device = set_up_runtime(params.runtime)
    cores_meant = cores or usable_cores()
    if not has_data(params):
        console.print(f"{params.data.root} is not here: made-up videos are timed, FF++'s counts are assumed")
    with console.status("timing clips"), tempfile.TemporaryDirectory(prefix="stf-forecast-") as scratch:
        n_processes = max(1, min(cores_meant, params.runtime.num_workers))
        data = measure_data(params, Path(scratch), seconds / 3, n_processes)
    with console.status("timing the network"):
        steps, scenarios = forecasts(params, data, device, seconds / 3, gpu, cores_meant)
    given = Figure(
        "loader processes",
        params.runtime.num_workers,
        "",
        "given",
        f"runtime.num_workers, on {cores_meant} cores",
    )
    figures = [*data.figures, given, *steps]
    print_forecast(console, params, data.videos, figures, scenarios)
    kept = (
        STORED if gpu is None else f"checkpoints/forecast_{gpu}.json"
    )  # what is measured is not overwritten
    path = Path(output) if output else repository_root() / kept
    store_forecast(path, machine_key(params, gpu or device, cores_meant), figures, scenarios)
    console.print(f"written to {path}", markup=False)
    if require and not all(scenario.plan.holds for scenario in scenarios):
        raise TrainingError("the budget does not hold; see above for what helps")


def forecasts(
    params: Params, data: DataFigures, device: str, limit_s: float, gpu: str | None, cores: int
) -> tuple[list[Figure], list[Scenario]]:
    """(the network's figures, a forecast with them): one from what was timed here, or three shares of a GPU's peak."""
    from stf.config import STFV8Config
    from stf.forecast.forecast import Figure, gpu_rates
    from stf.forecast.measure import step_rates
    from stf.forecast.plan import PHASES, CoreSeconds, Scenario, plan_of
    from stf.models.size import multiply_adds

    configs: dict[PhaseName, STFV8Config] = {p: STFV8Config.from_params(params, p) for p in PHASES}
    cached = Figure("frames to cache", frames_to_cache(params, data.train_frames), "", "computed")
    costs = CoreSeconds(data.pair_s, data.read_s, cached.value * data.frame_s)
    figures, scenarios = [cached] if params.runtime.face_cache else [], []
    if gpu is None:
        steps: dict[PhaseName, tuple[float, float]] = {}
        for phase, config in configs.items():
            checkpointing = params.runtime.activation_checkpointing
            limit = limit_s / len(configs)
            rates = step_rates(config, params.training, device, limit, checkpointing=checkpointing)
            steps[phase] = (rates.trained, rates.scored)
            note = f"on {device}, {rates.clips_timed} clips at once"
            if rates.peak_gb is not None:
                note += f", {rates.peak_gb:.1f} GB at most"
            figures.append(
                Figure(f"training, phase {phase.upper()}", rates.trained, "clips/s", "measured", note)
            )
            figures.append(
                Figure(f"scoring, phase {phase.upper()}", rates.scored, "clips/s", "measured", note)
            )
        plan = plan_of(params, data.videos, costs, steps, cores, shared=device == "cpu")
        return figures, [Scenario("", plan)]
    works = {phase: sum(multiply_adds(config).values()) for phase, config in configs.items()}
    for phase, work in works.items():
        note = "forward, of one clip; a training step takes three times as much"
        figures.append(Figure(f"phase {phase.upper()}", work / 1e9, "G multiply-adds", "computed", note))
    peak = GPUS[gpu].tflops
    figures.append(Figure(f"{gpu}'s peak", peak, "TFLOP/s", "given", "data sheet, bfloat16 without sparsity"))
    for name, share in UTILISATION.items():
        figures.append(Figure(f"{name} share of it", 100 * share, "%", "assumed", "no GPU was timed"))
        assumed: dict[PhaseName, tuple[float, float]] = {
            phase: gpu_rates(works[phase], GPUS[gpu], share) for phase in PHASES
        }
        plan = plan_of(params, data.videos, costs, assumed, cores, shared=False)
        scenarios.append(Scenario(f"{name}: {share:.0%} of the {gpu}'s peak", plan))
    return figures, scenarios


def frames_to_cache(params: Params, train_frames: int) -> int:
    """Frames that runtime.face_cache still lacks: all of them where the data is not here or was never verified."""
    from stf.data.ffpp import require_fingerprint
    from stf.errors import DataError
    from stf.forecast.data import has_data
    from stf.training.face_cache import face_cache, training_videos

    if not params.runtime.face_cache:
        return 0
    if not has_data(params):
        return train_frames
    try:
        cache = face_cache(params, require_fingerprint(params.data.root, DATA_JSON))
    except DataError:
        return train_frames
    return sum(len(video.frame_paths) for video in cache.missing(training_videos(params)))


if __name__ == "__main__":
    main()
