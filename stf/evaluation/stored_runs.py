"""Which stored runs may be compared: same data, same parameters, and all of the videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from stf.config import FLAGS, Params, PhaseName
from stf.evaluation.results import OVERALL

# Sections of params.yaml that make a training what it is. Flags and seed are not among them: they are what runs are
# compared over.
_TRAINING_SECTIONS: dict[PhaseName, tuple[str, ...]] = {
    "a": ("data", "sbi", "model", "training", "phase_a"),
    "b": ("data", "sbi", "model", "training", "phase_a", "phase_b"),
}
_EVALUATION_KEYS = ("data.quality", "evaluation.methods", "evaluation.clips_per_video")


class RunLike(Protocol):
    """A finished run as a tracking store gives it back."""

    @property
    def run_id(self) -> str: ...
    @property
    def params(self) -> Mapping[str, str]: ...
    @property
    def tags(self) -> Mapping[str, str]: ...
    @property
    def metrics(self) -> Mapping[str, float]: ...
    @property
    def minutes(self) -> float | None: ...


RunT = TypeVar("RunT", bound=RunLike)


def training_setting(params: Params, phase: PhaseName) -> dict[str, str]:
    """The parameters, as a store holds them, in which two trainings of a phase must agree."""
    sections = _TRAINING_SECTIONS[phase]
    flat = {key: str(value) for key, value in params.flat().items()}
    return {
        key: value
        for key, value in flat.items()
        if key.partition(".")[0] in sections and key.partition(".")[2] not in (*FLAGS, "min_phase_a_auc")
    }


def evaluation_setting(params: Params) -> dict[str, str]:
    """The same for two evaluations."""
    flat = params.flat()
    return {key: str(flat[key]) for key in _EVALUATION_KEYS}


def differing(actual: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    """The parameters in which a run differs from `expected`; one that the run did not know yet counts as equal."""
    return [key for key, value in expected.items() if actual.get(key, value) != value]


def n_videos(evaluation: RunLike) -> int:
    """How many videos an evaluation scored at its headline quality."""
    metrics = evaluation.metrics
    return int(metrics.get(f"n_real/{OVERALL}", 0) + metrics.get(f"n_fake/{OVERALL}", 0))


def whole_evaluations(evaluations: Sequence[RunT], params: Params) -> dict[str, RunT]:
    """{weights' sha256: their evaluation} in the order given, of those scored as `params` says and with a figure.

    Of several evaluations of the same weights the one with the most videos counts, then the first: one of a few
    methods alone does not stand for the whole.
    """
    setting, evaluations_by_weights = evaluation_setting(params), {}
    for run in evaluations:
        digest = run.tags.get("weights_sha256")
        if digest is None or f"auc/{OVERALL}" not in run.metrics or differing(run.params, setting):
            continue
        if digest not in evaluations_by_weights or n_videos(run) > n_videos(evaluations_by_weights[digest]):
            evaluations_by_weights[digest] = run
    return evaluations_by_weights


def newest_of(
    variant: str,
    phase: PhaseName,
    evaluations: Sequence[RunT],
    trainings: Sequence[RunLike],
    params: Params,
) -> RunT | None:
    """The first (newest) evaluation of `variant` trained as `params` says, with its seed; None when there is none.

    Seed and parameters are those of the training run, or the evaluation's own where the store lacks that.
    """
    made_by = {run.tags["weights_sha256"]: run for run in reversed(trainings) if "weights_sha256" in run.tags}
    setting = training_setting(params, phase) | {"seed": str(params.seed)}
    for digest, evaluation in whole_evaluations(evaluations, params).items():
        origin: RunLike = made_by.get(digest, evaluation)
        if evaluation.tags.get("variant") == variant and not differing(origin.params, setting):
            return evaluation
    return None
