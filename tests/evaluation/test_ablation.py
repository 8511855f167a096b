"""The grid's rows, which runs fall into which cell, and the figures over seeds."""

import dataclasses
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy import stats

from stf.config import FLAGS, PHASE_A_FLAGS, Params, STFV8Config
from stf.evaluation.ablation import ROWS, SEEDS, as_document, collect, row_results, spread
from stf.evaluation.stored_runs import newest_of

PARAMS = Params()


@dataclass
class Run:
    """A run as a store gives it back."""

    run_id: str = "1"
    params: dict = field(default_factory=dict)
    tags: dict = field(default_factory=dict)
    metrics: dict = field(default_factory=dict)
    minutes: float | None = 2.0


def training(row, seed, weights=None, params=PARAMS, **tags):
    logged = {key: str(value) for key, value in dataclasses.replace(params, seed=seed).flat().items()}
    flags = {flag: str(flag in row.flags).lower() for flag in FLAGS}
    digest = {"weights_sha256": weights or f"{row.key}-{seed}"}
    return Run(f"t-{row.key}-{seed}", logged, flags | digest | tags, {"val/best_auc": 0.6, "cost_usd": 0.02})


def evaluation(weights, auc, n_fake=64, params=PARAMS, **tags):
    logged = {key: str(value) for key, value in params.flat().items()}
    metrics = {"auc/overall": auc, "auc_low/overall": 0.0, "auc/Deepfakes": auc - 0.1, "n_real/overall": 16}
    return Run(
        f"e-{weights}", logged, {"weights_sha256": weights} | tags, metrics | {"n_fake/overall": n_fake}
    )


def test_the_rows_go_from_v73_to_full_v80_one_flag_at_a_time():
    assert len(ROWS) == 11
    assert len({row.key for row in ROWS}) == 11
    variants = [STFV8Config(**dict.fromkeys(row.flags, True)).variant() for row in ROWS]
    assert (variants[0], variants[5], variants[-1]) == ("V7.3", "A", "B")
    assert {row.flags[0] for row in ROWS[1:5]} == set(PHASE_A_FLAGS)
    assert {frozenset(row.flags) - set(PHASE_A_FLAGS) for row in ROWS[6:10]} == {
        frozenset({flag}) for flag in FLAGS if flag not in PHASE_A_FLAGS
    }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.key)
def test_overrides_set_the_seed_and_every_flag(row):
    values = dict(value.split("=") for value in row.overrides(2))
    assert values.pop("seed") == "2"
    assert {key.removeprefix("phase_a.") for key, value in values.items() if value == "true"} == set(
        row.flags
    )
    assert len(values) == 8


def test_a_run_belongs_to_the_cell_of_its_flags_and_seed_and_the_newest_counts():
    a, v73 = ROWS[5], ROWS[0]
    trainings = [training(a, 1, "new"), training(a, 1, "old"), training(v73, 0)]  # newest first
    evaluations = [evaluation("new", 0.8), evaluation("old", 0.3), evaluation("v73-0", 0.5)]
    grid = collect(trainings, evaluations, PARAMS)
    assert {key: cell.aucs["overall"] for key, cell in grid.cells.items()} == {
        ("a", 1): 0.8,
        ("v73", 0): 0.5,
    }
    assert grid.cells["a", 1].aucs.keys() == {"overall", "Deepfakes"}
    assert grid.cells["a", 1].costs.val_auc == 0.6


def test_runs_outside_the_grid_are_left_out():
    longer = dataclasses.replace(PARAMS, phase_a=dataclasses.replace(PARAMS.phase_a, epochs=99))
    more_clips = dataclasses.replace(
        PARAMS, evaluation=dataclasses.replace(PARAMS.evaluation, clips_per_video=1)
    )
    other_flags = dataclasses.replace(ROWS[0], flags=("use_hydra", "use_wss"))
    trainings = [
        training(ROWS[0], 0, params=longer),
        training(ROWS[1], 0, dry_run="true"),
        training(other_flags, 0, "other"),
        training(ROWS[2], 0),
        training(ROWS[3], 0),
    ]
    evaluations = [evaluation(run.tags["weights_sha256"], 0.5) for run in trainings[:3]]
    evaluations.append(evaluation(trainings[3].tags["weights_sha256"], 0.5, params=more_clips))
    grid = collect(trainings, evaluations, PARAMS)
    assert grid.cells == {}
    assert grid.other_settings == {"phase_a.epochs": 1}
    assert grid.not_evaluated == {(ROWS[2].key, 0), (ROWS[3].key, 0)}


def test_flags_seed_runtime_phase_b_and_new_parameters_do_not_exclude_a_run():
    changed = dataclasses.replace(
        PARAMS,
        phase_a=dataclasses.replace(PARAMS.phase_a, use_wss=True),
        phase_b=dataclasses.replace(PARAMS.phase_b, epochs=1),
        runtime=dataclasses.replace(PARAMS.runtime, threads=7),
    )
    run = training(ROWS[0], 0, params=changed)
    del run.params["model.ssm_backend"]  # a run from before there was that parameter
    assert collect([run], [evaluation("v73-0", 0.5)], PARAMS).cells.keys() == {("v73", 0)}


def test_an_evaluation_of_some_methods_does_not_count_as_a_full_one():
    evaluations = [evaluation("v73-0", 0.9, n_fake=16), evaluation("v73-0", 0.5, n_fake=64)]
    assert collect([training(ROWS[0], 0)], evaluations, PARAMS).cells["v73", 0].aucs["overall"] == 0.5


def test_the_interval_is_that_of_students_t():
    values = [0.51, 0.55, 0.62]
    result = spread(values)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (result.mean, result.low, result.high, result.n) == pytest.approx((np.mean(values), low, high, 3))
    assert result.high - result.mean == pytest.approx(4.302653 * np.std(values, ddof=1) / math.sqrt(3))
    assert (spread([0.5]).low, spread([0.5]).n) == (None, 1)
    assert spread([]) is None


def test_gains_pair_equal_seeds():
    a, v73 = ROWS[5], ROWS[0]
    runs = [(v73, 0, 0.40), (v73, 1, 0.50), (a, 0, 0.45), (a, 1, 0.55), (a, 2, 0.99)]
    grid = collect(
        [training(row, seed) for row, seed, _ in runs],
        [evaluation(f"{row.key}-{seed}", auc) for row, seed, auc in runs],
        PARAMS,
    )
    results = {result.row.key: result for result in row_results(grid)}
    assert list(results) == [row.key for row in ROWS]
    assert (results["a"].gain.mean, results["a"].gain.n) == pytest.approx((0.05, 2))
    assert results["a"].gain.high - results["a"].gain.low == pytest.approx(
        0, abs=1e-9
    )  # the seeds gain alike
    assert results["a"].overall.mean == pytest.approx((0.45 + 0.55 + 0.99) / 3)
    assert results["a"].methods["Deepfakes"].mean == pytest.approx((0.35 + 0.45 + 0.89) / 3)
    assert results["v73"].missing == (2,)
    assert (results["v80"].overall, results["v80"].gain, results["v80"].missing) == (None, None, SEEDS)
    document = as_document(row_results(grid), grid, "f", synthetic=True)
    assert document["note"].startswith("Synthetic")
    assert document["rows"][5]["runs"]["2"]["overall_auc"] == 0.99
    assert document["rows"][10]["runs"] == {}


def test_a_seed_beyond_the_plan_is_missing_elsewhere():
    grid = collect([training(ROWS[0], 7)], [evaluation("v73-7", 0.5)], PARAMS)
    assert grid.seeds == (0, 1, 2, 7)
    assert row_results(grid)[1].missing == (0, 1, 2, 7)


def test_the_default_of_a_comparison_has_the_seed_and_parameters_of_params_yaml():
    longer = dataclasses.replace(PARAMS, phase_a=dataclasses.replace(PARAMS.phase_a, epochs=99))
    row = ROWS[5]
    trainings = [
        training(row, 1, "seed 1"),
        training(row, 0, "longer", params=longer),
        training(row, 0, "right"),
    ]
    evaluations = [evaluation(name, 0.5, variant="A") for name in ("seed 1", "longer", "right")]
    assert newest_of("A", "a", evaluations, trainings, PARAMS).tags["weights_sha256"] == "right"
    assert newest_of("V7.3", "a", evaluations, trainings, PARAMS) is None
    alone = evaluation("pulled", 0.5, variant="A")  # weights that no run of this store made
    assert newest_of("A", "a", [alone], [], PARAMS) is alone
