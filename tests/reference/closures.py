"""Which modules each DVC stage runs: its import closure, without what returns nothing into a result."""

from __future__ import annotations

import sys
from pathlib import Path

import grimp
import yaml

ROOT = Path(__file__).resolve().parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
RETURN_NOTHING = ("stf.tracking", "stf.console")  # test_tracking_values.py holds them to it


def import_graph() -> grimp.ImportGraph:
    """Who imports whom in this checkout, imports inside functions included, RETURN_NOTHING left out."""
    sys.path.insert(0, str(ROOT))  # this checkout, not the one that is installed
    graph = grimp.build_graph("stf", "pipeline", cache_dir=None, exclude_type_checking_imports=True)
    for package in RETURN_NOTHING:
        for module in graph.find_descendants(package) | {package}:
            graph.remove_module(module)
    # STFV8Config.describe(): text for people, never part of a result.
    graph.remove_import(importer="stf.config", imported="stf.models.size")
    return graph


def closure(graph: grimp.ImportGraph, stage: str) -> set[str]:
    """The files that a stage's command imports, itself included, relative to the root; packages are empty."""
    command = f"pipeline.{stage}"
    modules = graph.find_upstream_modules(command) | {command}
    return {f"{m.replace('.', '/')}.py" for m in modules if not (ROOT / m.replace(".", "/")).is_dir()}


def code_deps(stage: str) -> list[str]:
    """The files and folders of code among the stage's dependencies."""
    return [dep for dep in STAGES[stage]["deps"] if dep.startswith(("stf/", "pipeline/"))]


def covers(dep: str, file: str) -> bool:
    """Whether DVC sees a change of `file` in the dependency `dep`."""
    return file == dep or file.startswith(f"{dep}/")
