"""What stf.tracking returns enters no result: that is why it may be left out of every stage's dependencies.

Writers (runs, loggers) may be entered, handed on, and have a method called whose value is dropped. Pictures may be kept
by a run or saved to a file that is no stage's output. The baseline's figure may only be printed.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
import yaml

from stf.tracking.loggers import ConsoleLogger, CSVLogger
from stf.tracking.run import TrackedRun
from stf.tracking.training_report import TrainingReport

ROOT = Path(__file__).resolve().parents[1]
WRITERS = {"track", "CSVLogger", "ConsoleLogger", "TrainingReport"}
PICTURES = {"pairs_figure", "hll_figure"}
CONSOLE_ONLY = {"baseline_auc"}
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"].values()
# compare and ablate stand beside DVC: reading runs back is what they are for.
CODE = {dep for stage in STAGES for dep in stage["deps"] if dep.startswith("pipeline/")}
PIPELINE = pytest.mark.parametrize("path", [ROOT / path for path in sorted(CODE)], ids=lambda path: path.stem)


def _called(node: ast.AST | None) -> str:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


class _Values(ast.NodeVisitor):
    """Collects every place of a module where a value that came out of stf.tracking is used for anything."""

    def __init__(self, tree: ast.Module) -> None:
        self.found: list[str] = []
        self._parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
        self._holders, self._pictures = _holders(tree), PICTURES | _functions_returning(PICTURES, tree)
        self._drawn = _assigned(self._pictures, tree)
        named = [n for n in tree.body if isinstance(n, ast.Assign) and isinstance(n.value, ast.Constant)]
        self._constants = {ast.unparse(t): n.value.value for n in named for t in n.targets}
        self.visit(tree)

    def visit_Name(self, node: ast.Name) -> None:
        is_written = isinstance(node.ctx, ast.Store)
        may_hold = isinstance(self._parents[node], ast.withitem | ast.keyword | ast.Call | ast.Attribute)
        if node.id in self._holders and not (is_written or may_hold):
            self.found.append(f"line {node.lineno}: {node.id} is used as a value")
        if node.id in self._drawn and not (is_written or self._is_kept(node) or self._is_saved(node)):
            self.found.append(f"line {node.lineno}: picture {node.id} is used as a value")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.value, ast.Name) and node.value.id in self._holders:
            parent = self._parents[node]
            is_called = isinstance(parent, ast.Call) and parent.func is node
            is_callback = isinstance(parent, ast.keyword | ast.Call) and not is_called
            is_dropped = is_called and isinstance(self._parents[parent], ast.Expr | ast.Lambda)
            if node.attr.startswith("_") or not (is_callback or is_dropped):
                self.found.append(f"line {node.lineno}: the value of {ast.unparse(node)}")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name, parent = _called(node), self._parents[node]
        taker = _called(self._parents[parent] if isinstance(parent, ast.keyword) else parent)
        is_given_name = isinstance(parent, ast.Assign)
        misplaced = (
            (name in WRITERS and not (is_given_name or isinstance(parent, ast.withitem)))
            or (name in self._pictures and not (is_given_name or self._is_kept(node) or self._is_saved(node)))
            or (name in CONSOLE_ONLY and "print" not in taker)
        )
        if misplaced:
            self.found.append(f"line {node.lineno}: {name} in {taker or type(parent).__name__}")
        self.generic_visit(node)

    def _is_kept(self, node: ast.expr) -> bool:
        parent = self._parents[node]
        return isinstance(parent, ast.Return) or _called(parent).rpartition(".")[0] in self._holders

    def _is_saved(self, node: ast.expr) -> bool:
        """`write_png(PATH, figure)` where PATH is a constant of the module that names no output of a stage."""
        call = self._parents[node]
        if not (isinstance(call, ast.Call) and _called(call) == "write_png" and node in call.args[1:]):
            return False
        path = self._constants.get(ast.unparse(call.args[0]))
        return path is not None and path not in (ROOT / "dvc.yaml").read_text(encoding="utf-8")


def _assigned(makers: set[str], tree: ast.Module) -> set[str]:
    assigned = [
        node for node in ast.walk(tree) if isinstance(node, ast.Assign) and _called(node.value) in makers
    ]
    return {ast.unparse(target) for node in assigned for target in node.targets}


def _functions_returning(pictures: set[str], tree: ast.Module) -> set[str]:
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    returns = {f.name: [n.value for n in ast.walk(f) if isinstance(n, ast.Return)] for f in functions}
    return {name for name, values in returns.items() if any(_called(value) in pictures for value in values)}


def _holders(tree: ast.Module) -> set[str]:
    """Names that hold a writer: bound by `with`, assigned, or an argument annotated as a run."""
    names = _assigned(WRITERS, tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation and "TrackedRun" in ast.unparse(node.annotation):
            names.add(node.arg)
    for node in ast.walk(tree):
        if isinstance(node, ast.withitem) and node.optional_vars:
            made = _called(node.context_expr) in WRITERS or ast.unparse(node.context_expr) in names
            names |= {ast.unparse(node.optional_vars)} if made else set()
    return names


@PIPELINE
def test_commands_import_of_tracking_only_what_is_checked_here(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    plain = [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
    assert not [name for name in plain if name.startswith("stf.tracking")], "write: from … import …"
    chosen = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    aliases = [a for node in chosen if (node.module or "").startswith("stf.tracking") for a in node.names]
    assert {alias.name for alias in aliases} <= WRITERS | PICTURES | CONSOLE_ONLY | {"TrackedRun"}
    assert not [alias.asname for alias in aliases if alias.asname], "keep the names that tracking gives"


@PIPELINE
def test_no_command_uses_a_value_of_tracking(path: Path) -> None:
    assert _Values(ast.parse(path.read_text(encoding="utf-8"))).found == []


@pytest.mark.parametrize("writer", [TrackedRun, CSVLogger, ConsoleLogger, TrainingReport])
def test_every_method_of_a_writer_returns_none(writer: type) -> None:
    public = [method for name, method in inspect.getmembers(writer, inspect.isfunction) if name[0] != "_"]
    assert public
    assert {inspect.signature(method, eval_str=True).return_annotation for method in public} == {None}
    properties = [name for name, _ in inspect.getmembers(writer, lambda member: isinstance(member, property))]
    assert properties == []


@pytest.mark.parametrize(
    "leak",
    [
        "with track('a') as run:\n    x = run.log({})",
        "with track('a') as run:\n    code = 1 if run.tag('a', 'b') else 2",
        "with track('a') as run:\n    write(run._run_id)",
        "with track('a') as run:\n    x = run.status",
        "with track('a') as run:\n    x = run",
        "opened = track('a')\nwith opened as run:\n    x = run.log({})",
        "use(track('a'))",
        "def f(run: TrackedRun):\n    write(run.log({}))",
        "log = CSVLogger('a')\nwrite(log.log({}))",
        "x = baseline_auc()",
        "write(path, baseline_auc())",
        "save(pairs_figure([]))",
        "def f():\n    return pairs_figure([])\nsave(f())",
        "figure = pairs_figure([])\nwrite(figure)",
        "PATH = 'metrics/eval_a.json'\nfigure = pairs_figure([])\nwrite_png(PATH, figure)",
        "PATH = 'metrics/eval_a.json'\nwrite_png(PATH, pairs_figure([]))",
        "def f(path):\n    write_png(path, pairs_figure([]))",
        "figure = pairs_figure([])\nfigure.savefig('a.png')",
    ],
)
def test_a_use_of_a_value_is_found(leak: str) -> None:
    assert _Values(ast.parse(leak)).found


@pytest.mark.parametrize(
    "fair",
    [
        "with track('a') as run:\n    run.log({})\n    fit(on_step=run.log, on_epoch=lambda r: run.log(r))",
        "opened = track('a')\nwith lock(), opened as run:\n    report(run, x)",
        "print_report(console, baseline_auc(fingerprint))",
        "with track('a') as run:\n    run.figure(pairs_figure([]), 'pairs.png')",
        "def f():\n    return hll_figure([])\nwith track('a') as run:\n    run.figure(f(), 'hll.png')",
        "PATH = 'metrics/plots/sample_pairs.png'\nfigure = pairs_figure([])\nwrite_png(PATH, figure)",
        "PATH = 'metrics/plots/sample_pairs.png'\nwrite_png(PATH, pairs_figure([]))",
    ],
)
def test_fair_use_is_not(fair: str) -> None:
    assert _Values(ast.parse(fair)).found == []
