"""A comparison as tables on the terminal; every line fits 100 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from stf.console.tables import FEW_CLUSTERS, make_table, number, percent, print_notes

if TYPE_CHECKING:
    from rich.console import Console

    from stf.evaluation.compare import Comparison, Contestant, PairedGroup

ALPHA = 0.05


def print_comparison(
    console: Console,
    contestants: Sequence[Contestant],
    comparisons: Sequence[Comparison],
    *,
    warning: str | None,
    methods: Sequence[str],
) -> None:
    """Prints the runs, then a table for every pair and quality, then what a reader must know.

    `warning` stands above the tables; `methods` says how intervals and p-values are made.
    """
    console.print()
    if warning:
        console.print(f"[bold yellow]{warning}[/bold yellow]\n")
    console.print(runs_table(contestants))
    for comparison in comparisons:
        for quality in comparison.qualities:
            console.print()
            console.print(pair_table(comparison, quality))
    print_notes(console, [*methods, *notes(contestants, comparisons)])


def runs_table(contestants: Sequence[Contestant]) -> Table:
    """What is compared, and what its network and training took."""
    table = make_table("Compared", "", "Run")
    table.columns[1].justify = "left"
    for name in ("Epoch", "Val AUC %", "Params M", "GMAC/clip", "Clips/s", "Min", "Cost $"):
        table.add_column(name, justify="right")
    for c in contestants:
        costs = c.costs
        figures = (
            percent(costs.val_auc),
            number(costs.parameters, 1e-6, 3),
            number(costs.gmacs_per_clip, 1, 2),
            number(costs.clips_per_s, 1, 1),
            number(costs.minutes, 1, 1),
            number(costs.cost_usd, 1, 3),
        )
        title = f"[bold]{escape(c.evaluation.variant)}[/bold]\n[dim]{escape(c.name)}[/dim]"
        table.add_row(c.label, title, str(c.evaluation.epoch), *figures)
    return table


def pair_table(comparison: Comparison, quality: str) -> Table:
    """Method | N | AUC of both | difference in points with interval | p."""
    a, b = comparison.a, comparison.b
    title = f"{b.label} ({b.evaluation.variant}) against {a.label} ({a.evaluation.variant}), {quality}"
    change = f"{b.label} − {a.label}, points [95 %]"
    columns = ("N", f"AUC % {a.label}", f"AUC % {b.label}", change, "p")
    table = make_table(escape(title), "Method", *(escape(column) for column in columns))
    table.add_column("Test")
    for name, group in comparison.qualities[quality].items():
        if group.is_overall:
            table.add_section()
        table.add_row(name.capitalize() if group.is_overall else name, *_cells(group))
    return table


def _cells(group: PairedGroup) -> tuple[str, ...]:
    count, test = f"{group.n_real} + {group.n_fake}", "bootstrap" if group.is_overall else "DeLong"
    if group.delong is None:
        return count, "n/a", "n/a", "n/a", "n/a", test
    change, p_text = f"{100 * group.delong.difference:+.1f}", group.p_text
    if group.interval is not None:
        low, high = group.interval
        change += f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    if group.shown is not None and group.shown.p_value is not None and group.shown.p_value < ALPHA:
        p_text = f"[bold]{p_text}[/bold]"
    return count, percent(group.delong.auc_a), percent(group.delong.auc_b), escape(change), p_text, test


def notes(contestants: Sequence[Contestant], comparisons: Sequence[Comparison]) -> Iterator[str]:
    """What a reader must know beside the tables."""
    clusters = [c.overall.bootstrap.n_clusters for c in comparisons if c.overall.bootstrap]
    if clusters and min(clusters) < FEW_CLUSTERS:
        yield f"Only {min(clusters)} identity pairs: with so few the overall interval is too narrow."
    yield "Test videos: look, do not choose. Weights, epoch and threshold come from validation alone."
    for comparison in comparisons:
        lost = [
            f"{quality}/{method}: " + ", ".join(f"{count} {why}" for why, count in counts.items())
            for (quality, method), counts in comparison.pairing.left_out.items()
        ]
        if lost:
            yield f"{comparison.b.label} against {comparison.a.label} leaves out: {'; '.join(lost)}."
    if len({tuple(sorted(c.evaluation.clips.items())) for c in contestants}) > 1:
        clips = "; ".join(f"{c.label}: {_clips(c)}" for c in contestants)
        yield f"Not the same clips: {clips}."
    yield (
        "Val AUC: self-blended clips, the best epoch. Clips/s (last epoch) and minutes: the training run's own. "
        "Cost: the run's own too, unless it was billed: then what its plan had cost by then, phase B's with phase A's."
    )
    machines = {c.costs.machine for c in contestants if c.costs.machine}
    if len(machines) > 1:
        yield f"Trained on different machines, so times do not compare: {'; '.join(sorted(machines))}."
    unknown = [c.label for c in contestants if c.costs.minutes is None]
    if unknown:
        yield f"No training run of the weights of {', '.join(unknown)} in the store: its cost is n/a."


def _clips(contestant: Contestant) -> str:
    clips = contestant.evaluation.clips
    return f"≤ {clips['per_video']} of {clips['num_frames']} frames at {clips['img_size']} px"
