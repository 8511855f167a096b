"""A comparison as tables on the terminal; every line fits 100 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stf.evaluation.compare import (
    BOOTSTRAP_NOTE,
    DELONG_NOTE,
    Comparison,
    Contestant,
    interval_of,
    is_synthetic,
    left_out_text,
)
from stf.evaluation.console import FEW_CLUSTERS, make_table, percent
from stf.evaluation.document import SYNTHETIC_NOTE
from stf.evaluation.paired import PairedGroup
from stf.evaluation.results import OVERALL

ALPHA = 0.05


def print_comparison(
    console: Console, contestants: Sequence[Contestant], comparisons: Sequence[Comparison]
) -> None:
    """Prints the runs, then a table for every pair and quality, then what a reader must know."""
    console.print()
    if is_synthetic(contestants):
        console.print(f"[bold yellow]{SYNTHETIC_NOTE}[/bold yellow]\n")
    console.print(runs_table(contestants))
    for comparison in comparisons:
        for quality in comparison.qualities:
            console.print(pair_table(comparison, quality))
    print_notes(console, notes(contestants, comparisons))


def print_notes(console: Console, texts: Iterator[str]) -> None:
    """Sentences as bullets."""
    bullets = Table.grid(padding=(0, 1))
    for text in texts:
        bullets.add_row("•", escape(text))
    console.print(bullets)


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
        table.add_row(c.letter, title, str(c.evaluation.epoch), *figures)
    return table


def pair_table(comparison: Comparison, quality: str) -> Table:
    """Method | N | AUC of both | difference in points with interval | p."""
    a, b = comparison.a, comparison.b
    title = f"{b.letter} ({b.evaluation.variant}) against {a.letter} ({a.evaluation.variant}), {quality}"
    change = f"{b.letter} − {a.letter}, points [95 %]"
    columns = ("N", f"AUC % {a.letter}", f"AUC % {b.letter}", change, "p")
    table = make_table(escape(title), "Method", *(escape(column) for column in columns))
    table.add_column("Test")
    for name, group in comparison.qualities[quality].items():
        if name == OVERALL:
            table.add_section()
        table.add_row(name.capitalize() if name == OVERALL else name, *_cells(name, group))
    return table


def _cells(name: str, group: PairedGroup) -> tuple[str, ...]:
    count, test = f"{group.n_real} + {group.n_fake}", "bootstrap" if name == OVERALL else "DeLong"
    if group.delong is None:
        return count, "n/a", "n/a", "n/a", "n/a", test
    change, p_text = f"{100 * group.delong.difference:+.1f}", "n/a"
    shown = interval_of(name, group)
    if shown is not None:
        low, high, p_value = shown
        change += f" [{100 * low:+.1f}, {100 * high:+.1f}]"
        p_text = p_value_text(p_value)
        if p_value is not None and p_value < ALPHA:
            p_text = f"[bold]{p_text}[/bold]"
    return count, percent(group.delong.auc_a), percent(group.delong.auc_b), escape(change), p_text, test


def p_value_text(p_value: float | None) -> str:
    """Three decimals, or that it is below them."""
    if p_value is None:
        return "n/a"
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def number(value: float | None, scale: float, decimals: int) -> str:
    """`value`·`scale` with that many decimals; None is n/a."""
    return "n/a" if value is None else f"{value * scale:.{decimals}f}"


def notes(contestants: Sequence[Contestant], comparisons: Sequence[Comparison]) -> Iterator[str]:
    """What a reader must know beside the tables."""
    yield DELONG_NOTE
    yield BOOTSTRAP_NOTE
    clusters = [c.overall.bootstrap.n_clusters for c in comparisons if c.overall.bootstrap]
    if clusters and min(clusters) < FEW_CLUSTERS:
        yield f"Only {min(clusters)} identity pairs: with so few the overall interval is too narrow."
    yield "Test videos: look, do not choose. Weights, epoch and threshold come from validation alone."
    for comparison in comparisons:
        lost = left_out_text(comparison)
        if lost:
            yield f"{comparison.b.letter} against {comparison.a.letter} leaves out: {'; '.join(lost)}."
    if len({tuple(sorted(c.evaluation.clips.items())) for c in contestants}) > 1:
        clips = "; ".join(f"{c.letter}: {_clips(c)}" for c in contestants)
        yield f"Not the same clips: {clips}."
    yield (
        "Val AUC: self-blended clips, the kept epoch. Clips/s (last epoch) and minutes: the training run's own. "
        "Cost: the run's own too, unless it was billed: then what its plan had cost by then, phase B's with phase A's."
    )
    machines = {c.costs.machine for c in contestants if c.costs.machine}
    if len(machines) > 1:
        yield f"Trained on different machines, so times do not compare: {'; '.join(sorted(machines))}."
    unknown = [c.letter for c in contestants if c.costs.minutes is None]
    if unknown:
        yield f"No training run of the weights of {', '.join(unknown)} in the store: its cost is n/a."


def _clips(contestant: Contestant) -> str:
    clips = contestant.evaluation.clips
    return f"≤ {clips['per_video']} of {clips['num_frames']} frames at {clips['img_size']} px"
