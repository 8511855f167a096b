"""What stf.tracking and stf.console return enters no result: that is why no stage depends on them.

Writers (runs, reports, progress bars) may be entered, handed on, asked whether they are None, and have a method called
whose value is dropped. Pictures may be kept by a run or saved to a file that is no stage's output. Texts and tables may
be printed or become the message of an error. What returns None may be called, or handed on to be called.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from typing import Literal

import pytest

from stf.tracking.loggers import ConsoleLogger, CSVLogger
from stf.tracking.run import TrackedRun
from stf.tracking.training_report import TrainingReport
from tests.reference.closures import ROOT, STAGES, closure, import_graph

Kind = Literal["writer", "picture", "text", "printer", "console"]
PACKAGES = ("stf.tracking", "stf.console")
PICTURES = {"pairs_figure", "hll_figure"}
# rich's own Console, through which everything is printed; its width and its recording enter no file of a stage
CONSOLES = {"make_console"}
PRINTS = ("print", "echo", "secho", "status")


def kind_of(module: str, name: str) -> Kind:
    """What a name of tracking or console is, by what it returns."""
    value = getattr(importlib.import_module(module), name)
    if name in CONSOLES:
        return "console"
    if name in PICTURES:
        return "picture"
    if inspect.isclass(value):
        return "writer"
    assert callable(value), f"{module}.{name} is a constant: a stage must not read it"
    returned = inspect.signature(value).return_annotation
    if returned in (None, "None"):
        return "printer"
    holds = hasattr(value, "__wrapped__") or returned in ("TrainingReport", "TrackedRun")
    return "writer" if holds else "text"


def _called(node: ast.AST | None) -> str:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


class _Values(ast.NodeVisitor):
    """Collects every line of a module where a value that came out of tracking or console is used for anything."""

    def __init__(self, tree: ast.Module) -> None:
        self.violations: list[str] = []
        self._parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
        self._kinds = self._imported(tree)
        self._writers = self._writer_names(tree)
        own_pictures = _functions_returning(self._of("picture"), tree)
        self._kinds |= dict.fromkeys(own_pictures, "picture")
        self._drawn = _assigned(self._of("picture"), tree)
        constants = [n for n in tree.body if isinstance(n, ast.Assign) and isinstance(n.value, ast.Constant)]
        self._constants = {ast.unparse(t): n.value.value for n in constants for t in n.targets}
        self.visit(tree)

    def _imported(self, tree: ast.Module) -> dict[str, Kind]:
        kinds: dict[str, Kind] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                plain = [alias.name for alias in node.names if alias.name.startswith(PACKAGES)]
                self.violations += [
                    f"line {node.lineno}: import {name}; write from … import …" for name in plain
                ]
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGES):
                self.violations += [f"line {node.lineno}: {a.name} renamed" for a in node.names if a.asname]
                kinds |= {alias.name: kind_of(str(node.module), alias.name) for alias in node.names}
        return kinds

    def _of(self, kind: Kind) -> set[str]:
        return {name for name, its in self._kinds.items() if its == kind}

    def _writer_names(self, tree: ast.Module) -> set[str]:
        """Names that hold a writer: bound by `with`, assigned, or an argument annotated as a run."""
        names = {name for writer in self._of("writer") for name in _assigned({writer}, tree)}
        entered = [
            n for n in ast.walk(tree) if isinstance(n, ast.Assign) and "enter_context" in _called(n.value)
        ]
        for node in entered:
            given = node.value.args[0] if isinstance(node.value, ast.Call) and node.value.args else None
            if given is not None and (_called(given) in self._of("writer") or ast.unparse(given) in names):
                names |= {ast.unparse(target) for target in node.targets}
        for node in ast.walk(tree):
            if isinstance(node, ast.arg) and node.annotation and "TrackedRun" in ast.unparse(node.annotation):
                names.add(node.arg)
        for node in ast.walk(tree):
            if isinstance(node, ast.withitem) and node.optional_vars:
                made = _called(node.context_expr) in self._of("writer")
                if made or ast.unparse(node.context_expr) in names:
                    names.add(ast.unparse(node.optional_vars))
        return names

    def visit_Name(self, node: ast.Name) -> None:
        parent = self._parents[node]
        if isinstance(node.ctx, ast.Store):
            return
        if node.id in self._writers and not self._is_allowed_use(node):
            self.violations.append(f"line {node.lineno}: {node.id} is used as a value")
        if node.id in self._drawn and not (self._is_logged(node) or self._is_saved(node)):
            self.violations.append(f"line {node.lineno}: picture {node.id} is used as a value")
        kind = self._kinds.get(node.id)
        is_called = isinstance(parent, ast.Call) and parent.func is node
        is_callback = kind == "printer" and isinstance(parent, ast.Call | ast.keyword)
        if kind is not None and not (is_called or is_callback or self._is_annotation(node)):
            self.violations.append(f"line {node.lineno}: {node.id} is used as a value")

    def _is_allowed_use(self, node: ast.Name) -> bool:
        parent = self._parents[node]
        if isinstance(parent, ast.Compare):  # whether it is None, which its maker cannot choose
            return all(isinstance(op, ast.Is | ast.IsNot) for op in parent.ops)
        if isinstance(parent, ast.BoolOp):  # report or nullcontext(), report and report.step
            return isinstance(self._parents[parent], ast.withitem | ast.keyword)
        return isinstance(parent, ast.withitem | ast.keyword | ast.Call | ast.Attribute)

    def _is_annotation(self, node: ast.AST) -> bool:
        child = node
        while (parent := self._parents.get(child)) is not None:
            if isinstance(parent, ast.arg) or (
                isinstance(parent, ast.AnnAssign) and parent.annotation is child
            ):
                return True
            if isinstance(parent, ast.FunctionDef):
                return parent.returns is child
            child = parent
        return False

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.value, ast.Name) and node.value.id in self._writers:
            parent = self._parents[node]
            is_called = isinstance(parent, ast.Call) and parent.func is node
            is_callback = isinstance(parent, ast.keyword | ast.Call | ast.BoolOp) and not is_called
            is_dropped = is_called and isinstance(self._parents[parent], ast.Expr | ast.Lambda)
            if node.attr.startswith("_") or not (is_callback or is_dropped):
                self.violations.append(f"line {node.lineno}: the value of {ast.unparse(node)}")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name, parent = _called(node), self._parents[node]
        kind = self._kinds.get(name)
        taker = _called(self._parents[parent] if isinstance(parent, ast.keyword) else parent)
        is_given_name = isinstance(parent, ast.Assign)
        is_entered = isinstance(parent, ast.withitem) or taker.endswith("enter_context")
        fine = {
            None: True,
            "console": True,
            "writer": is_given_name or is_entered,
            "picture": is_given_name or self._is_logged(node) or self._is_saved(node),
            "printer": isinstance(parent, ast.Expr | ast.Lambda),
            "text": self._is_raised(node) or self._is_printed(node),
        }
        if not fine[kind]:
            self.violations.append(f"line {node.lineno}: {name} in {taker or type(parent).__name__}")
        self.generic_visit(node)

    def _is_raised(self, node: ast.AST) -> bool:
        """`raise SomeError(text(…))`, and `SomeError(text(…))` that is returned to be raised."""
        call = self._parents[node]
        is_error = isinstance(call, ast.Call) and node in call.args and _called(call)[0].isupper()
        return is_error and isinstance(self._parents[call], ast.Raise | ast.Return)

    def _is_printed(self, node: ast.AST) -> bool:
        call = self._parents[node]
        taker = _called(self._parents[call] if isinstance(call, ast.keyword) else call).rpartition(".")[2]
        return taker in PRINTS or taker.startswith("print_")

    def _is_logged(self, node: ast.expr) -> bool:
        parent = self._parents[node]
        return isinstance(parent, ast.Return) or _called(parent).rpartition(".")[0] in self._writers

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


# compare and ablate stand beside DVC: reading runs back is what they are for.
GRAPH = import_graph()
CODE = sorted({file for stage in STAGES for file in closure(GRAPH, stage)})
USERS = [
    path
    for path in CODE
    if any(f"from {package}" in (ROOT / path).read_text(encoding="utf-8") for package in PACKAGES)
]


def test_the_modules_that_are_looked_at_are_those_that_use_tracking_or_console() -> None:
    assert {"stf/training/run.py", "stf/training/step.py", "stf/evaluation/run.py"} <= set(USERS)
    assert "pipeline/verify_data.py" in USERS


@pytest.mark.parametrize("path", USERS)
def test_no_stage_uses_a_value_of_tracking_or_console(path: str) -> None:
    assert _Values(ast.parse((ROOT / path).read_text(encoding="utf-8"))).violations == []


@pytest.mark.parametrize("writer", [TrackedRun, CSVLogger, ConsoleLogger, TrainingReport])
def test_every_method_of_a_writer_returns_none(writer: type) -> None:
    public = [method for name, method in inspect.getmembers(writer, inspect.isfunction) if name[0] != "_"]
    assert public
    assert {inspect.signature(method, eval_str=True).return_annotation for method in public} == {None}
    properties = [name for name, _ in inspect.getmembers(writer, lambda member: isinstance(member, property))]
    assert properties == []


TRACK = "from stf.tracking.run import track\n"
REPORT = "from stf.tracking.training_report import open_report\n"
BASELINE = "from stf.tracking.baseline import baseline_auc\nfrom stf.console.evaluation import print_report\n"
PICTURE = "from stf.tracking.pictures import pairs_figure, hll_figure\n"
CSV = "from stf.tracking.loggers import CSVLogger\n"
WORDS = "from stf.console.training import non_finite, warn, print_network\n"
BAR = "from stf.console.progress import progress_bar\n"


@pytest.mark.parametrize(
    "leak",
    [
        TRACK + "with track('a') as run:\n    x = run.log({})",
        TRACK + "with track('a') as run:\n    code = 1 if run.tag('a', 'b') else 2",
        TRACK + "with track('a') as run:\n    write(run._run_id)",
        TRACK + "with track('a') as run:\n    x = run.status",
        TRACK + "with track('a') as run:\n    x = run",
        TRACK + "with track('a') as run:\n    if run:\n        write()",
        TRACK + "with track('a') as run:\n    if run == 3:\n        write()",
        TRACK + "opened = track('a')\nwith opened as run:\n    x = run.log({})",
        TRACK + "run = held.enter_context(track('a'))\nx = run.log({})",
        TRACK + "opened = track('a')\nrun = held.enter_context(opened)\nx = run.log({})",
        TRACK + "use(track('a'))",
        REPORT + "report = open_report(run)\nx = report.epochs",
        REPORT + "x = 3 + (open_report(run) or 4)",
        "def f(run: TrackedRun):\n    write(run.log({}))",
        CSV + "log = CSVLogger('a')\nwrite(log.log({}))",
        BASELINE + "x = baseline_auc()",
        BASELINE + "write(path, baseline_auc())",
        PICTURE + "save(pairs_figure([]))",
        PICTURE + "def f():\n    return pairs_figure([])\nsave(f())",
        PICTURE + "figure = pairs_figure([])\nwrite(figure)",
        PICTURE + "PATH = 'metrics/eval_a.json'\nfigure = pairs_figure([])\nwrite_png(PATH, figure)",
        PICTURE + "PATH = 'metrics/eval_a.json'\nwrite_png(PATH, pairs_figure([]))",
        PICTURE + "def f(path):\n    write_png(path, pairs_figure([]))",
        PICTURE + "figure = pairs_figure([])\nfigure.savefig('a.png')",
        WORDS + "text = non_finite('a', 1.0, 'b', [])",
        WORDS + "write_json(path, {'note': non_finite('a', 1.0, 'b', [])})",
        WORDS + "write_json(path, non_finite('a', 1.0, 'b', []))",
        WORDS + "def f():\n    return non_finite('a', 1.0, 'b', [])",
        WORDS + "x = warn('a')",
        WORDS + "x = warn",
        WORDS + "if print_network(1, 2, 3):\n    write()",
        BAR + "with progress_bar(console, 'a') as advance:\n    x = advance",
        "import stf.console.training\nx = stf.console.training.non_finite('a', 1.0, 'b', [])",
        "from stf.console.training import non_finite as f\nx = f('a', 1.0, 'b', [])",
    ],
)
def test_a_use_of_a_value_is_reported(leak: str) -> None:
    assert _Values(ast.parse(leak)).violations


def test_a_constant_of_the_console_is_refused() -> None:
    with pytest.raises(AssertionError, match="WIDTH is a constant"):
        kind_of("stf.console.tables", "WIDTH")


@pytest.mark.parametrize(
    "allowed",
    [
        TRACK
        + "with track('a') as run:\n    run.log({})\n    fit(on_step=run.log, on_epoch=lambda r: run.log(r))",
        TRACK + "opened = track('a')\nwith lock(), opened as run:\n    report(run, x)",
        TRACK + "run = held.enter_context(track('a'))\nrun.tag('a', 'b')",
        REPORT
        + "report = open_report(run)\nwith report or nullcontext():\n    fit(on_step=report and report.step)",
        BASELINE + "print_report(console, baseline_auc(fingerprint))",
        PICTURE
        + "with track('a') as run:\n    keep(run)\ndef f(run: TrackedRun):\n    run.figure(pairs_figure([]), 'a')",
        PICTURE
        + "def f():\n    return hll_figure([])\ndef g(run: TrackedRun):\n    run.figure(f(), 'hll.png')",
        PICTURE
        + "PATH = 'metrics/plots/sample_pairs.png'\nfigure = pairs_figure([])\nwrite_png(PATH, figure)",
        PICTURE + "PATH = 'metrics/plots/sample_pairs.png'\nwrite_png(PATH, pairs_figure([]))",
        WORDS + "raise TrainingError(non_finite('a', 1.0, 'b', []))",
        WORDS + "click.echo(non_finite('a', 1.0, 'b', []))",
        WORDS + "warn('a')\nresume(path, warn)",
        BAR
        + "with progress_bar(console, 'a') as advance:\n    generate(progress=advance)\n    advance(1, 2)",
    ],
)
def test_an_allowed_use_is_not_reported(allowed: str) -> None:
    assert _Values(ast.parse(allowed)).violations == []
