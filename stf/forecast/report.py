"""A forecast on the console: what went in, what comes out, and what would help; at most 100 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stf.config import Params
from stf.forecast.forecast import Figure, PlanForecast, epochs_that_fit, needed_clips_per_s
from stf.forecast.line import duration, money_of
from stf.forecast.plan import Scenario, works_of

COLOURS = {"measured": "green", "assumed": "yellow"}


def print_forecast(
    console: Console,
    params: Params,
    videos: dict[str, int],
    figures: Sequence[Figure],
    scenarios: Sequence[Scenario],
) -> None:
    """Inputs with their sources, one table per scenario, and the verdict."""
    console.print(_inputs(figures))
    works, money = list(works_of(params, videos).values()), money_of(params)
    needed, with_validation = (needed_clips_per_s(works, money, with_validation=v) for v in (False, True))
    console.print(
        f"${money.max_budget:.2f} at ${money.cost_per_hour:.2f}/h, stopped at ${money.stop_usd:.2f}: "
        f"{money.stop_hours:.2f} h, which takes [bold]{needed:.1f}[/] training clips/s "
        f"({with_validation:.1f} with validation)\n"
    )
    for scenario in scenarios:
        console.print(_plan(scenario, params))
        console.print(_verdict(scenario.plan, params), "\n")


def _more_data(params: Params) -> str:
    workers = f"more than {params.runtime.num_workers} workers on more cores"
    return workers if params.runtime.face_cache else f"runtime.face_cache, or {workers}"


def _more_network(params: Params) -> str:
    steps = "a faster GPU, or fewer epochs"
    if params.runtime.activation_checkpointing:
        return f"activation_checkpointing off where the memory allows it, {steps}"
    return steps


def _inputs(figures: Sequence[Figure]) -> Table:
    table = Table(title="What the forecast rests on", title_justify="left")
    for name in ("Input", "Value", "Source", ""):
        table.add_column(name, justify="right" if name == "Value" else "left")
    for figure in figures:
        value = f"{figure.value:,.0f}" if figure.value >= 1000 else f"{figure.value:.3g}"
        source = Text(figure.source, COLOURS.get(figure.source, ""))
        table.add_row(figure.name, f"{value} {figure.unit}".strip(), source, figure.note)
    return table


def _plan(scenario: Scenario, params: Params) -> Table:
    plan, price = scenario.plan, params.budget.cost_per_hour
    title = f"Forecast, {scenario.assumption}" if scenario.assumption else "Forecast"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in ("Training", "Validation", "Evaluation", "Together", "$", "Clips/s"):
        table.add_column(name, justify="right")
    table.add_column("Bound by")
    if plan.cache_hours:
        usd = f"{plan.cache_hours * price:.2f}"
        table.add_row("face cache", "", "", "", duration(plan.cache_hours), usd, "", "data")
    sections = {"a": params.phase_a, "b": params.phase_b}
    for name, phase in plan.phases.items():
        hours = (phase.training_hours, phase.validation_hours, phase.evaluation_hours, phase.hours)
        epochs = f"phase {name.upper()}, {sections[name].epochs} epochs"
        cells = [*map(duration, hours), f"{phase.hours * price:.2f}", f"{phase.clips_per_s:.1f}"]
        table.add_row(epochs, *cells, phase.bottleneck)
    table.add_section()
    table.add_row("all", "", "", "", duration(plan.hours), f"[bold]{plan.usd:.2f}[/]", "", "")
    return table


def _verdict(plan: PlanForecast, params: Params) -> str:
    money, bounds = plan.money, {phase.bottleneck for phase in plan.phases.values()}
    if plan.holds:
        return f"[bold green]the budget holds[/]: ${plan.usd:.2f} of ${money.stop_usd:.2f}"
    epochs = {"a": params.phase_a.epochs, "b": params.phase_b.epochs}
    fitting = epochs_that_fit(plan, epochs).items()
    told = " and ".join(f"{n} of {epochs[phase]} epochs of phase {phase.upper()}" for phase, n in fitting)
    fits = f"{plan.share_that_fits:.0%} of the plan fits, {told}"
    helps = {
        "data": _more_data(params),
        "network": _more_network(params),
        "cores": "a GPU",
    }
    advice = "; ".join(helps[bound] for bound in sorted(bounds))
    told = f"[bold red]the budget does not hold[/]: ${plan.usd:.2f} of ${money.stop_usd:.2f}, {fits}."
    return f"{told} What helps: {advice}"
