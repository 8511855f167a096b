"""Where an evaluation's files go, and when the DVC outputs are left alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from stf.errors import UsageError
from stf.io.outputs import require_own_json

DOCUMENT_KEY = "qualities"  # what tells an evaluation's document from other JSON


@dataclass(frozen=True)
class Outputs:
    """The files of one evaluation; `gate` is None unless it is phase A's plain one, which DVC runs."""

    document: Path
    scores: Path
    roc_plot: Path
    scores_plot: Path
    gate: Path | None

    @classmethod
    def beside(cls, document: Path, gate: Path | None = None) -> Outputs:
        """`DIR/NAME.json`, `DIR/NAME_scores.csv`, `DIR/plots/NAME_roc.png`, `DIR/plots/NAME_scores.png`."""
        folder, name = document.parent, document.stem
        plots = folder / "plots"
        scores = folder / f"{name}_scores.csv"
        return cls(document, scores, plots / f"{name}_roc.png", plots / f"{name}_scores.png", gate)


def choose_outputs(phase: str, output: str | None, changed: tuple[str, ...]) -> Outputs:
    """The DVC outputs under metrics/ for the plain command, else `output`, else tmp/eval_{phase}/.

    `changed` names the options whose value is not the default. With any of them, or another `output`, the result is
    not the pipeline's: no DVC output is overwritten and no gate written; the gate is phase A's alone. Raises
    UsageError when `output` asks for that, is no .json file, or would replace something else than an evaluation.
    """
    default = Path("metrics") / f"eval_{phase}.json"
    is_default = output is None or os.path.realpath(output) == os.path.realpath(default)
    if output is not None and is_default and changed:
        what = f"{default} holds the pipeline's own result, and {', '.join(changed)} would change it"
        raise UsageError(f"--output {output}: {what}; give another path")
    if is_default and not changed:
        return Outputs.beside(default, gate=Path("metrics/gate_a.json") if phase == "a" else None)
    aside = Path("tmp") / f"eval_{phase}" / default.name if output is None else Path(output)
    require_own_json("--output", aside, DOCUMENT_KEY)
    return Outputs.beside(aside)
