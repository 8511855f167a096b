"""A forecast for people: the line that a training starts with, pipeline.forecast's tables and the file it stores."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stf.config import BudgetParams, Params, PhaseName, STFV8Config
from stf.data.video_sbi_dataset import VideoSBIDataset
from stf.forecast.measure import DataFigures, frames_to_cache, quick_step_rates, seconds_per_pair, step_rates
from stf.forecast.plan import (
    GPUS,
    PHASES,
    UTILISATION,
    CoreSeconds,
    Figure,
    PlanForecast,
    Rates,
    Work,
    gpu_rates,
    loader_cores,
    needed_clips_per_s,
    phase_forecast,
    plan_forecast,
    stop_hours,
    stop_usd,
)
from stf.io.cores import usable_cores
from stf.io.files import read_json
from stf.io.outputs import write_json
from stf.io.paths import repository_root
from stf.models.size import multiply_adds

STORED = "checkpoints/forecast.json"
QUICK_S = 2.0  # for the pairs of an estimate, and half of it for the steps
COLOURS = {"measured": "green", "assumed": "yellow"}

# ---------------------------------------------------------------------------------------- the line of a training


def projected_line(
    params: Params, phase: PhaseName, dataset: VideoSBIDataset, device: str, processes: int
) -> str:
    """What the phase will cost: as pipeline.forecast measured it for this plan and machine, else an estimate."""
    cores = usable_cores()
    if processes == 1:  # pipeline.forecast measures one process
        key = machine_key(params, device, cores)
        if line := stored_line(repository_root() / STORED, key, phase, params.budget):
            return line
    return estimated_line(params, phase, dataset, device, cores, processes)


def estimated_line(
    params: Params, phase: PhaseName, dataset: VideoSBIDataset, device: str, cores: int, processes: int = 1
) -> str:
    """An estimate of the phase's training in a few seconds, from some pairs and steps on this machine."""
    config = STFV8Config.from_params(params, phase)
    pair_s, _ = seconds_per_pair(dataset, QUICK_S, max_pairs=3)
    checkpointing = params.runtime.activation_checkpointing
    steps = quick_step_rates(config, params.training, device, QUICK_S / 2, checkpointing=checkpointing)
    networks = 1 if device == "cpu" else processes  # processes on a CPU share its cores
    made = 2 * loader_cores(params, cores, processes) / pair_s
    rates = Rates(made, steps.trained * networks, steps.scored * networks, made, shared=device == "cpu")
    epochs = params.phase_a.epochs if phase == "a" else params.phase_b.epochs
    forecast = phase_forecast(Work(epochs, len(dataset)), rates)
    usd = forecast.training_hours * params.budget.cost_per_hour
    bound = {"data": "the data loader", "network": "the network", "cores": "the cores"}[forecast.bottleneck]
    return (
        f"projected ${usd:.2f} of ${params.budget.max_budget:.2f}: phase {phase.upper()}, about "
        f"{duration(forecast.training_hours)} (estimate: {forecast.clips_per_s:.1f} clips/s, limited by {bound})"
    )


def stored_line(path: Path, key: str, phase: PhaseName, budget: BudgetParams) -> str | None:
    """The same from the stored forecast; None unless there is one of this very plan and machine."""
    try:
        stored = read_json(path)
        if stored["key"] != key:
            return None
        plan, made = stored["forecasts"][0], datetime.fromisoformat(stored["made"])
        hours, usd = plan["phases"][phase]["hours"], plan["usd"]
        return (
            f"projected ${hours * budget.cost_per_hour:.2f} of ${budget.max_budget:.2f}: phase {phase.upper()} "
            f"{duration(hours)}; both phases ${usd:.2f} (pipeline.forecast of {made:%Y-%m-%d %H:%M})"
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None  # none, or not one of this version: it is only a notice


def machine_key(params: Params, device: str, cores: int) -> str:
    """What a stored forecast belongs to: all parameters, and the machine."""
    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else ""
    values = [dataclasses.asdict(params), gpu, device, cores]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def duration(hours: float) -> str:
    """'2.1 h', '34 min' or '12 s'."""
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.0f} min" if hours * 60 >= 2 else f"{hours * 3600:.0f} s"


# ---------------------------------------------------------------------------------------- pipeline.forecast


def forecast_plans(
    params: Params,
    works: Mapping[PhaseName, Work],
    data: DataFigures,
    device: str,
    limit_s: float,
    *,
    gpu: str | None,
    cores: int,
) -> tuple[list[Figure], list[PlanForecast]]:
    """(the network's figures, a forecast with them): one from steps timed here, or three shares of `gpu`'s peak."""
    configs: dict[PhaseName, STFV8Config] = {p: STFV8Config.from_params(params, p) for p in PHASES}
    n_frames = frames_to_cache(params, data.train_frames)
    figures = [Figure("frames to cache", n_frames, "", "computed")] if params.runtime.face_cache else []
    costs = CoreSeconds(data.pair_s, data.read_s, n_frames * data.frame_s)
    if gpu is None:
        steps: dict[PhaseName, tuple[float, float]] = {}
        checkpointing = params.runtime.activation_checkpointing
        for phase, config in configs.items():
            rates = step_rates(config, params.training, device, limit_s / 2, checkpointing=checkpointing)
            steps[phase] = (rates.trained, rates.scored)
            note = f"on {device}, {rates.clips_timed} clips at once"
            if rates.peak_gb is not None:
                note += f", {rates.peak_gb:.1f} GB at most"
            for name, rate in (("training", rates.trained), ("scoring", rates.scored)):
                figures.append(Figure(f"{name}, phase {phase.upper()}", rate, "clips/s", "measured", note))
        shared = device == "cpu"
        return figures, [plan_forecast(params, works, costs, steps, cores, shared=shared)]
    work = {phase: sum(multiply_adds(config).values()) for phase, config in configs.items()}
    for phase in PHASES:
        note = "forward, of one clip; a training step takes three times as much"
        figures.append(
            Figure(f"phase {phase.upper()}", work[phase] / 1e9, "G multiply-adds", "computed", note)
        )
    note = "data sheet, bfloat16 without sparsity"
    figures.append(Figure(f"{gpu}'s peak", GPUS[gpu].tflops, "TFLOP/s", "given", note))
    plans = []
    for name, share in UTILISATION.items():
        figures.append(Figure(f"{name} share of it", 100 * share, "%", "assumed", "no GPU was timed"))
        steps = {phase: gpu_rates(work[phase], GPUS[gpu], share) for phase in PHASES}
        assumption = f"{name}: {share:.0%} of the {gpu}'s peak"
        plans.append(plan_forecast(params, works, costs, steps, cores, shared=False, assumption=assumption))
    return figures, plans


def store_forecast(path: Path, key: str, figures: Sequence[Figure], plans: Sequence[PlanForecast]) -> None:
    """Writes inputs and forecasts, in one step."""
    forecasts = [
        {
            "assumption": plan.assumption,
            "hours": plan.hours,
            "usd": plan.usd,
            "holds": plan.holds,
            "cache_hours": plan.cache_hours,
            "phases": {name: dataclasses.asdict(p) | {"hours": p.hours} for name, p in plan.phases.items()},
        }
        for plan in plans
    ]
    made = datetime.now().astimezone().isoformat(timespec="minutes")
    inputs = [dataclasses.asdict(figure) for figure in figures]
    write_json(path, {"made": made, "key": key, "inputs": inputs, "forecasts": forecasts})


def print_forecast(
    console: Console,
    params: Params,
    works: Mapping[PhaseName, Work],
    figures: Sequence[Figure],
    plans: Sequence[PlanForecast],
) -> None:
    """Inputs with their sources, one table per plan, and the verdict; at most 100 columns."""
    console.print(_inputs(figures))
    budget = params.budget
    needed, with_validation = (
        needed_clips_per_s(works.values(), budget, with_validation=with_it) for with_it in (False, True)
    )
    console.print(
        f"${budget.max_budget:.2f} at ${budget.cost_per_hour:.2f}/h, stopped at ${stop_usd(budget):.2f}: "
        f"{stop_hours(budget):.2f} h, which takes [bold]{needed:.1f}[/] training clips/s "
        f"({with_validation:.1f} with validation)\n"
    )
    for plan in plans:
        console.print(_plan(plan, params))
        console.print(_verdict(plan, params), "\n")


def _inputs(figures: Sequence[Figure]) -> Table:
    table = Table(title="Inputs of the forecast", title_justify="left")
    for name in ("Input", "Value", "Source", ""):
        table.add_column(name, justify="right" if name == "Value" else "left")
    for figure in figures:
        value = f"{figure.value:,.0f}" if figure.value >= 1000 else f"{figure.value:.3g}"
        source = Text(figure.source, COLOURS.get(figure.source, ""))
        table.add_row(figure.name, f"{value} {figure.unit}".strip(), source, figure.note)
    return table


def _plan(plan: PlanForecast, params: Params) -> Table:
    price = params.budget.cost_per_hour
    title = f"Forecast, {plan.assumption}" if plan.assumption else "Forecast"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in ("Training", "Validation", "Evaluation", "Together", "$", "Clips/s"):
        table.add_column(name, justify="right")
    table.add_column("Limited by")
    if plan.cache_hours:
        usd = f"{plan.cache_hours * price:.2f}"
        table.add_row("face cache", "", "", "", duration(plan.cache_hours), usd, "", "data")
    for name, phase in plan.phases.items():
        hours = (phase.training_hours, phase.validation_hours, phase.evaluation_hours, phase.hours)
        epochs = f"phase {name.upper()}, {phase.epochs} epochs"
        cells = [*map(duration, hours), f"{phase.hours * price:.2f}", f"{phase.clips_per_s:.1f}"]
        table.add_row(epochs, *cells, phase.bottleneck)
    table.add_section()
    table.add_row("all", "", "", "", duration(plan.hours), f"[bold]{plan.usd:.2f}[/]", "", "")
    return table


def _verdict(plan: PlanForecast, params: Params) -> str:
    figures = f"projected ${plan.usd:.2f} of ${stop_usd(plan.budget):.2f}"
    if plan.holds:
        return f"[bold green]the plan fits the budget[/]: {figures}"
    fitting = " and ".join(
        f"{n} of {plan.phases[name].epochs} epochs of phase {name.upper()}"
        for name, n in plan.epochs_that_fit().items()
    )
    workers = f"more than {params.runtime.num_workers} workers on more cores"
    advice = {
        "data": workers if params.runtime.face_cache else f"runtime.face_cache, or {workers}",
        "network": "a faster GPU, or fewer epochs",
        "cores": "a GPU",
    }
    if params.runtime.activation_checkpointing:
        advice["network"] = f"activation_checkpointing off where the memory allows it, {advice['network']}"
    what_helps = "; ".join(advice[limit] for limit in sorted({p.bottleneck for p in plan.phases.values()}))
    return (
        f"[bold red]the plan does not fit the budget[/]: {figures}, {plan.share_that_fits:.0%} of it fits, {fitting}. "
        f"What helps: {what_helps}"
    )
