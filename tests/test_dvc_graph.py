"""dvc.yaml keeps DVC's promise: a stage reruns when, and only when, something that can change its result changed.

Why stf.tracking and stf.console may be left out of every dependency list is shown in test_tracking_values.py.
"""

from __future__ import annotations

import ast
import dataclasses
import subprocess
from pathlib import Path

import grimp
import pytest

from stf.config import Params
from tests.reference.closures import ROOT, STAGES, closure, code_deps, covers, import_graph

SOURCES = sorted([*(ROOT / "stf").rglob("*.py"), *(ROOT / "pipeline").glob("*.py")])
SECTIONS = {field.name for field in dataclasses.fields(Params)}
# STFV8Config.from_params reads these, and one phase.
CONFIG_SECTIONS = {"model", "training", "data", "budget"}
TRAINING = [stage for stage in STAGES if stage.startswith("train")]


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return import_graph()


def _outs(stage: str) -> list[str | dict]:
    return [entry for kind in ("outs", "metrics", "plots") for entry in STAGES[stage].get(kind, [])]


def _path(entry: str | dict) -> str:
    return entry if isinstance(entry, str) else next(iter(entry))


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _called(node: ast.AST | None) -> str:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def _rerun_by(file: str) -> set[str]:
    """The stages that an edit of `file` reruns by itself."""
    return {stage for stage in STAGES if any(covers(dep, file) for dep in code_deps(stage))}


def _files(folder: str) -> list[str]:
    files = [path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.py")]
    assert files, folder
    return files


def test_stages_come_in_the_specified_order() -> None:
    assert list(STAGES) == ["verify_data", "train_phase_a", "eval_a", "train_phase_b", "eval_b"]
    assert [stage["cmd"] for stage in STAGES.values()] == [f"python -m pipeline.{stage}" for stage in STAGES]


@pytest.mark.parametrize("stage", STAGES)
def test_dependencies_hold_the_import_closure(stage: str, graph: grimp.ImportGraph) -> None:
    """Else an edit of what is left out would change a result that DVC takes for current."""
    missing = [
        file
        for file in sorted(closure(graph, stage))
        if not any(covers(dep, file) for dep in code_deps(stage))
    ]
    assert not missing


@pytest.mark.parametrize("stage", STAGES)
def test_no_dependency_is_superfluous(stage: str, graph: grimp.ImportGraph) -> None:
    """Each listed path is there and holds a module of the closure; pipeline/ is listed file by file."""
    files = closure(graph, stage)
    for dep in code_deps(stage):
        assert (ROOT / dep).exists(), dep
        assert any(covers(dep, file) for file in files), dep
        assert not dep.startswith("pipeline") or dep.endswith(".py"), dep


def test_a_file_that_a_stage_lacks_is_noticed(graph: grimp.ImportGraph) -> None:
    """The check above is not one that cannot fail."""
    files = closure(graph, "train_phase_a")
    assert {"pipeline/cli.py", "stf/training/step.py", "stf/models/dwt_3d.py", "stf/data/faces.py"} <= files
    assert not [file for file in files if file.startswith(("stf/tracking/", "stf/console/"))]
    deps = [dep for dep in code_deps("train_phase_a") if dep != "stf/models"]
    assert any(not any(covers(dep, file) for dep in deps) for file in files)


@pytest.mark.parametrize("stage", STAGES)
def test_closure_sees_imports_inside_functions(stage: str, graph: grimp.ImportGraph) -> None:
    """Commands import the heavy parts inside the function, for a fast --help."""
    imported = {
        f"{node.module.replace('.', '/')}.py"
        for node in ast.walk(_parse(ROOT / "pipeline" / f"{stage}.py"))
        if isinstance(node, ast.ImportFrom) and node.module and node.col_offset > 0
    }
    kept = {path for path in imported if not path.startswith(("stf/tracking", "stf/console"))}
    ours = kept & {path.relative_to(ROOT).as_posix() for path in SOURCES}
    assert ours, "no import inside a function: this test has nothing to show"
    assert ours <= closure(graph, stage)


@pytest.mark.parametrize("folder", ["stf/tracking", "stf/console", "stf/preprocess", "tests", "benchmarks"])
def test_an_edit_beside_the_stages_reruns_nothing(folder: str) -> None:
    assert {file: _rerun_by(file) for file in _files(folder)} == {file: set() for file in _files(folder)}


def test_an_edit_of_docs_reruns_nothing() -> None:
    files = ["README.md", "Makefile", *(p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").glob("*"))]
    assert {file: _rerun_by(file) for file in files} == {file: set() for file in files}


def test_an_edit_of_evaluation_retrains_nothing() -> None:
    files = [*_files("stf/evaluation"), "pipeline/eval_a.py", "pipeline/eval_b.py"]
    assert all(_rerun_by(file) <= {"eval_a", "eval_b"} for file in files)
    for stage in TRAINING:
        read = [dep for dep in STAGES[stage]["deps"] if dep.startswith("metrics/eval")]
        assert not read, "the gate's verdict is all that training takes from evaluation"


@pytest.mark.parametrize("folder", ["stf/sample", "stf/audit"])
def test_only_verify_data_depends_on_the_sample_and_the_audit(folder: str) -> None:
    assert {stage for file in _files(folder) for stage in _rerun_by(file)} == {"verify_data"}


def test_an_edit_of_training_makes_no_data_anew() -> None:
    assert {stage for file in _files("stf/training") for stage in _rerun_by(file)} == set(TRAINING)


@pytest.mark.parametrize("stage", STAGES)
def test_everything_that_a_stage_reads_of_params_yaml_is_its_parameter(
    stage: str, graph: grimp.ImportGraph
) -> None:
    declared = set(STAGES[stage]["params"])
    assert {param.partition(".")[0] for param in declared} <= SECTIONS - {"runtime"}
    read: set[str] = set()
    for file in closure(graph, stage) - {"stf/config.py"}:
        read |= _params_read(_parse(ROOT / file), stage)
    missing = {
        key for key in read if key not in declared and key.partition(".")[0] not in declared | {"runtime"}
    }
    assert not missing


def test_other_seeds_of_an_ablation_share_the_data_and_their_audit() -> None:
    assert "seed" not in STAGES["verify_data"]["params"]


def _params_read(tree: ast.Module, stage: str) -> set[str]:
    """'section' or 'section.key' for all that is taken from `params`, directly or by STFV8Config.from_params.

    Code that both phases share chooses by `… if phase == "a" else …`, which counts as the phase of the stage, or by
    `if phase == "b" and …:`, whose body the other phase never runs.
    """
    own_phase = f"phase_{stage[-1]}"
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    read: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in SECTIONS and _is_params(node.value):
            parent = parents[node]
            key = f"{node.attr}.{parent.attr}" if isinstance(parent, ast.Attribute) else node.attr
            whole = parent if isinstance(parent, ast.Attribute) else node
            if node.attr.startswith("phase_") and node.attr != own_phase and _is_guarded(node, parents):
                continue
            read.add(own_phase if isinstance(parents[whole], ast.IfExp) else key)
        if _called(node) == "STFV8Config.from_params":
            read |= CONFIG_SECTIONS | {own_phase}
    return read


def _is_guarded(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether `params.phase_x` stands in the body of an `if phase == "x"` or of that and more."""
    assert isinstance(node, ast.Attribute)
    guard = f"phase == '{node.attr[-1]}'"
    child: ast.AST = node
    while (parent := parents.get(child)) is not None:
        if isinstance(parent, ast.If) and child in parent.body:
            tests = parent.test.values if isinstance(parent.test, ast.BoolOp) else [parent.test]
            is_and = not isinstance(parent.test, ast.BoolOp) or isinstance(parent.test.op, ast.And)
            if is_and and guard in map(ast.unparse, tests):
                return True
        child = parent
    return False


def _is_params(node: ast.expr) -> bool:
    return ast.unparse(node).split(".")[-1] == "params"


def test_params_read_are_collected() -> None:
    tree = ast.parse(
        "use(params.sbi.x, run.params.seed, params.data)\n"
        "STFV8Config.from_params(params, phase)\n"
        "epochs = params.phase_a.epochs if phase == 'a' else params.phase_b.epochs"
    )
    assert _params_read(tree, "train_phase_a") == {"sbi.x", "seed", "data", "phase_a"} | CONFIG_SECTIONS
    guarded = ast.parse("if phase == 'b' and not dry_run:\n    use(params.phase_b.x)")
    assert _params_read(guarded, "train_phase_a") == set()
    assert _params_read(guarded, "train_phase_b") == {"phase_b.x"}
    open_to_both = ast.parse("if phase == 'b' or dry_run:\n    use(params.phase_b.x)\nuse(params.phase_b.y)")
    assert _params_read(open_to_both, "train_phase_a") == {"phase_b.x", "phase_b.y"}


def test_data_dependencies_are_made_by_an_earlier_stage() -> None:
    order = list(STAGES)
    made_by = {_path(entry): stage for stage in STAGES for entry in _outs(stage)}
    for stage in STAGES:
        for dep in set(STAGES[stage]["deps"]) - set(code_deps(stage)):
            assert order.index(made_by[dep]) < order.index(stage), dep


@pytest.mark.parametrize("stage", STAGES)
def test_figures_are_in_git_and_large_outs_in_dvcs_cache(stage: str) -> None:
    for entry in _outs(stage):
        path = _path(entry)
        in_git = isinstance(entry, dict) and entry[path].get("cache") is False
        large = path.endswith(("_scores.csv", "_details.json"))
        assert in_git == (path.startswith("metrics/") and not large), entry
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


def test_byte_code_never_makes_a_folder_outdated() -> None:
    assert "__pycache__/" in (ROOT / ".dvcignore").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_packages_are_empty_and_nothing_is_imported_by_string(source: Path) -> None:
    """Else the import graph would miss what a package's __init__ or a string pulls in."""
    if source.name == "__init__.py":
        assert source.stat().st_size == 0
    by_string = ("import_module", "importlib.import_module", "__import__", "exec", "eval", "runpy.run_module")
    assert not [node for node in ast.walk(_parse(source)) if _called(node) in by_string]
