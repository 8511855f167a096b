"""The fuzzer detects every kind of failure, and a short run finds none; `make fuzz` is the long run."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from tests.fuzz.__main__ import fuzz, main, names_of, report
from tests.fuzz.kinds import SHARES
from tests.fuzz.planted import PLANTED
from tests.fuzz.supervise import COLUMNS, run_inputs

INPUTS = 250


def test_every_planted_fault_is_detected(tmp_path: Path) -> None:
    """Each planted fault is counted in its column and in no other, and listed with the input that shows it."""
    names = [f"{name}:{seed}" for name in PLANTED for seed in (0, 1)]
    tallies = run_inputs(names, tmp_path, workers=1, limit_s=3)
    for name, column in PLANTED.items():
        counts = tallies[name].counts
        assert counts["inputs"] == 2
        assert counts[column] == 2, name
        others = set(COLUMNS) - {"inputs", "refused", "accepted", "tracebacks", column}
        assert all(counts[other] == 0 for other in others), name
        assert {failed for failed, _, _ in tallies[name].failures} == {f"{name}:0", f"{name}:1"}


def test_report_fits_the_screen_and_counts_failures(tmp_path: Path) -> None:
    tallies = run_inputs(["planted write:0", "planted nonsense:0"], tmp_path, workers=1, limit_s=5)
    console = Console(width=100, record=True, file=io.StringIO())
    assert report(console, tallies) == 2
    text = console.export_text()
    assert max(map(len, text.splitlines()[:4])) <= 100
    assert "--only 'planted write:0'" in text
    assert "AssertionError" in text


def test_inputs_depend_on_the_seed_alone_and_include_every_kind() -> None:
    names = names_of(1000, 3, SHARES)
    assert names == names_of(1000, 3, SHARES)
    assert len(set(names)) == len(names) == 1000
    assert {name.rpartition(":")[0] for name in names} == set(SHARES)
    assert not set(names) & set(names_of(1000, 4, SHARES))


def test_damaged_inputs_are_refused_in_one_line_or_read_correctly() -> None:
    """Without whole commands, whose imports take longer than these inputs."""
    shares = {name: share for name, share in SHARES.items() if name != "compare"}
    console = Console(width=100, record=True, file=io.StringIO())
    tallies = fuzz(names_of(INPUTS, 0, shares), 1, 20.0, console)
    n_failures = report(console, tallies)
    assert n_failures == 0, console.export_text()
    assert sum(tally.counts["inputs"] for tally in tallies.values()) == INPUTS
    refused, accepted = (sum(t.counts[c] for t in tallies.values()) for c in ("refused", "accepted"))
    assert refused > accepted > 0  # otherwise the inputs are damaged too little or too much


@pytest.mark.slow
def test_the_command_finds_no_failure_in_other_inputs() -> None:
    """All kinds, including whole commands, with a time limit for a busy machine."""
    result = CliRunner().invoke(main, ["--inputs", "4000", "--seed", "1", "--workers", "1", "--limit", "60"])
    assert result.exit_code == 0, result.output
    assert "4,000" in result.output
