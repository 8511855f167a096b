"""dvc.yaml keeps DVC's promise: a stage reruns when, and only when, something that can change its result changed.

Why stf.tracking may be left out of every dependency list is shown in test_tracking_values.py.
"""

from __future__ import annotations

import ast
import dataclasses
import subprocess
from pathlib import Path

import grimp
import pytest
import yaml

from scripts.dvc_deps import closure, import_graph
from stf.config import Params

ROOT = Path(__file__).resolve().parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
SOURCES = sorted([*(ROOT / "stf").rglob("*.py"), *(ROOT / "pipeline").glob("*.py")])
SECTIONS = {field.name for field in dataclasses.fields(Params)}
# STFV8Config.from_params reads these, and one phase.
CONFIG_SECTIONS = {"model", "training", "data", "budget"}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return import_graph()


def _code(stage: str) -> list[str]:
    return [dep for dep in STAGES[stage]["deps"] if dep.endswith(".py")]


def _outs(stage: str) -> list[str | dict]:
    return [entry for kind in ("outs", "metrics", "plots") for entry in STAGES[stage].get(kind, [])]


def _path(entry: str | dict) -> str:
    return entry if isinstance(entry, str) else next(iter(entry))


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _called(node: ast.AST | None) -> str:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def test_stages_come_in_the_specified_order() -> None:
    assert list(STAGES) == ["verify_data", "train_phase_a", "eval_a", "train_phase_b", "eval_b"]
    assert [stage["cmd"] for stage in STAGES.values()] == [f"python -m pipeline.{stage}" for stage in STAGES]


@pytest.mark.parametrize("stage", STAGES)
def test_code_dependencies_are_the_import_closure(stage: str, graph: grimp.ImportGraph) -> None:
    assert _code(stage) == closure(graph, f"pipeline.{stage}"), "mend: make deps"


@pytest.mark.parametrize("stage", STAGES)
def test_closure_sees_imports_inside_functions(stage: str) -> None:
    """Commands import the heavy parts inside the function, for a fast --help."""
    imported = {
        f"{node.module.replace('.', '/')}.py"
        for node in ast.walk(_parse(ROOT / "pipeline" / f"{stage}.py"))
        if isinstance(node, ast.ImportFrom) and node.module and node.col_offset > 0
    }
    ours = {path for path in imported if not path.startswith("stf/tracking")} & {
        path.relative_to(ROOT).as_posix() for path in SOURCES
    }
    assert ours, "no import inside a function: this test has nothing to show"
    assert ours <= set(_code(stage))


@pytest.mark.parametrize("stage", STAGES)
def test_tracking_is_nobodys_dependency(stage: str) -> None:
    assert not [dep for dep in STAGES[stage]["deps"] if "tracking" in dep]


@pytest.mark.parametrize("stage", [stage for stage in STAGES if not stage.startswith("eval")])
def test_evaluation_code_makes_nothing_retrain(stage: str) -> None:
    evaluation = ("stf/evaluation", "stf/data/evaluation", "pipeline/eval", "metrics/eval")
    assert not [dep for dep in STAGES[stage]["deps"] if dep.startswith(evaluation)]


@pytest.mark.parametrize("stage", STAGES)
def test_everything_that_a_stage_reads_of_params_yaml_is_its_parameter(stage: str) -> None:
    declared = set(STAGES[stage]["params"])
    assert {param.partition(".")[0] for param in declared} <= SECTIONS - {"runtime"}
    read: set[str] = set()
    for dep in set(_code(stage)) - {"stf/config.py"}:
        read |= _params_read(_parse(ROOT / dep), stage)
    missing = {
        key for key in read if key not in declared and key.partition(".")[0] not in declared | {"runtime"}
    }
    assert not missing


def test_other_seeds_of_an_ablation_share_the_data_and_their_audit() -> None:
    assert "seed" not in STAGES["verify_data"]["params"]


def _params_read(tree: ast.Module, stage: str) -> set[str]:
    """'section' or 'section.key' for all that is taken from `params`, directly or by STFV8Config.from_params.

    Code that both phases share chooses by `… if phase == "a" else …`: that counts as the phase of the stage.
    """
    own_phase = f"phase_{stage[-1]}"
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    read: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in SECTIONS and _is_params(node.value):
            parent = parents[node]
            key = f"{node.attr}.{parent.attr}" if isinstance(parent, ast.Attribute) else node.attr
            whole = parent if isinstance(parent, ast.Attribute) else node
            read.add(own_phase if isinstance(parents[whole], ast.IfExp) else key)
        if _called(node) == "STFV8Config.from_params":
            read |= CONFIG_SECTIONS | {own_phase}
    return read


def _is_params(node: ast.expr) -> bool:
    return ast.unparse(node).split(".")[-1] == "params"


def test_params_read_are_found() -> None:
    tree = ast.parse(
        "use(params.sbi.x, run.params.seed, params.data)\n"
        "STFV8Config.from_params(params, phase)\n"
        "epochs = params.phase_a.epochs if phase == 'a' else params.phase_b.epochs"
    )
    assert _params_read(tree, "train_phase_a") == {"sbi.x", "seed", "data", "phase_a"} | CONFIG_SECTIONS


def test_data_dependencies_are_made_by_an_earlier_stage() -> None:
    order = list(STAGES)
    made_by = {_path(entry): stage for stage in STAGES for entry in _outs(stage)}
    for stage in STAGES:
        for dep in set(STAGES[stage]["deps"]) - set(_code(stage)):
            assert order.index(made_by[dep]) < order.index(stage), dep


@pytest.mark.parametrize("stage", STAGES)
def test_figures_are_in_git_and_large_outs_in_dvcs_cache(stage: str) -> None:
    for entry in _outs(stage):
        path = _path(entry)
        in_git = isinstance(entry, dict) and entry[path].get("cache") is False
        assert in_git == (path.startswith("metrics/") and not path.endswith("_scores.csv")), entry
    # DVC forgets earlier runs of a stage that has an uncached file under `outs`.
    assert all(isinstance(entry, str) for entry in STAGES[stage].get("outs", []))


@pytest.mark.parametrize("stage", STAGES)
def test_a_fresh_clone_lacks_an_out_of_every_stage(stage: str) -> None:
    """Else DVC would find all of them in git, skip the stage, and the clone's MLflow store would never hold its run."""
    ignored = [_path(entry) for entry in _outs(stage) if _is_ignored(_path(entry))]
    assert ignored, stage


def _is_ignored(path: str) -> bool:
    command = ("git", "check-ignore", "--quiet", "--no-index", path)
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def test_byte_code_never_makes_a_folder_stale() -> None:
    assert "__pycache__/" in (ROOT / ".dvcignore").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_packages_are_empty_and_nothing_is_imported_by_string(source: Path) -> None:
    """Else the import graph would miss what a package's __init__ or a string pulls in."""
    if source.name == "__init__.py":
        assert source.stat().st_size == 0
    by_string = ("import_module", "importlib.import_module", "__import__", "exec", "eval", "runpy.run_module")
    assert not [node for node in ast.walk(_parse(source)) if _called(node) in by_string]
