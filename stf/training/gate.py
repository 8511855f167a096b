"""Whether phase B may start: the verdict that eval_a wrote on phase A's test figures.

The gate file is the only thing that training reads from evaluation. The AUC itself is read only for the message of a
closed gate: a run that starts never reads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stf.console.training import closed_gate
from stf.errors import TrainingError
from stf.io.files import read_json

RENEW = "run `dvc repro eval_a` to write it"


def require_open_gate(
    gate_path: str | Path,
    min_auc: float,
    report_path: str | Path,
    spent_and_left: tuple[float, float] | None,
    max_budget: float,
) -> None:
    """Returns when phase B may start; else raises TrainingError with the figures and what to do.

    `min_auc` is phase_b.min_phase_a_auc, `report_path` the report of the evaluation that wrote the gate; the plan's
    dollars (see stf.training.budget.spent_and_left) are for the message. A gate with another threshold, or one that
    cannot be read, is refused too.
    """
    passed, threshold = _read_gate(Path(gate_path))
    if threshold != min_auc:
        raise TrainingError(
            f"{gate_path} was written for phase_b.min_phase_a_auc = {threshold:g}, which is now {min_auc:g}; {RENEW}"
        )
    if not passed:
        auc = _overall_auc(Path(report_path))
        raise TrainingError(closed_gate(auc, threshold, gate_path, spent_and_left, max_budget))


def _read_gate(path: Path) -> tuple[bool, float]:
    values = _read_json(path, f"{path} does not exist: phase A has not been evaluated; {RENEW}")
    passed, threshold = values.get("passed"), values.get("threshold")
    if not isinstance(passed, bool) or isinstance(threshold, bool) or not isinstance(threshold, int | float):
        raise TrainingError(f"{path} has no verdict (passed, threshold); {RENEW}")
    return passed, float(threshold)


def _overall_auc(report: Path) -> float | None:
    """The overall AUC in eval_a's metrics; None when it is not available."""
    try:
        auc = _read_json(report, "").get("a_auc_overall")
    except TrainingError:
        return None
    return float(auc) if isinstance(auc, int | float) else None


def _read_json(path: Path, if_missing: str) -> dict[str, Any]:
    try:
        values = read_json(path)
    except FileNotFoundError:
        raise TrainingError(if_missing) from None
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} cannot be read ({error}); {RENEW}") from None
    if not isinstance(values, dict):
        raise TrainingError(f"{path} is not a JSON object; {RENEW}")
    return values
