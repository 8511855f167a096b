"""Fuzzes a whole command, from its options to its exit code."""

from __future__ import annotations

from click.testing import CliRunner

from pipeline.compare import main as compare_command
from stf.errors import StfError
from stf.evaluation.compare_run import report_comparison
from stf.tracking.run import track
from tests.fuzz.documents import KINDS as DOCUMENT_KINDS
from tests.fuzz.kinds import Kind, Place, Rng
from tests.fuzz.mutations import pick

_IMPORTED = (
    track,
    report_comparison,
)  # before the clock runs: the command imports them when it needs them
_INPUTS = [kind for kind in DOCUMENT_KINDS if kind.name in ("params.yaml", "evaluation")]


def _make_command(rng: Rng, place: Place) -> None:
    """Makes two evaluations and a parameter file, one of them damaged."""
    for name in ("e_details.json", "e_scores.csv", "params.yaml"):
        (place.case / name).write_bytes((place.good / name).read_bytes())
    pick(rng, _INPUTS).make(rng, place)


def _read_command(place: Place) -> None:
    """Runs `python -m pipeline.compare A B`: the exit code is 0, 1 or 2, and an error is one line."""
    arguments = (
        str(place.good / "e.json"),
        str(place.case / "e.json"),
        "--params",
        str(place.case / "params.yaml"),
    )
    result = CliRunner().invoke(
        compare_command, [*arguments, "--output", str(place.outputs / "compare.json")]
    )
    assert result.exit_code in (0, 1, 2), result.output[-300:]
    assert "Traceback" not in result.output
    assert "unexpected" not in result.output, result.output[-300:]
    if result.exit_code:
        last = result.output.strip().splitlines()[-1]
        assert last.startswith("error: "), last
        raise StfError(last)


KINDS = (Kind("compare", _make_command, _read_command),)
