"""The code each DVC stage depends on: its import closure without stf.tracking, written into dvc.yaml.

python scripts/dvc_deps.py            exit 1 and name what differs
python scripts/dvc_deps.py --write    bring dvc.yaml up to date (or: make deps)
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click
import grimp

ROOT = Path(__file__).resolve().parents[1]
NEVER = (
    "stf.tracking"  # its return values enter no result (tests/test_dvc_graph.py), so its edits rerun nothing
)
_COMMAND = re.compile(r"^    cmd: python -m (pipeline\.\w+)$", re.MULTILINE)
_BLOCK = re.compile(
    r"(?P<head>      # code: written by scripts/dvc_deps\.py\n)(?P<files>(?:      - \S+\n)*)(?P<tail>      # data\n)"
)


def import_graph() -> grimp.ImportGraph:
    """Who imports whom in this checkout, imports inside functions included, tracking left out."""
    sys.path.insert(0, str(ROOT))  # this checkout, not the one that is installed
    graph = grimp.build_graph("stf", "pipeline", cache_dir=None)
    for module in graph.find_descendants(NEVER) | {NEVER}:
        graph.remove_module(module)
    return graph


def file_of(module: str) -> str:
    """'stf.data.ffpp' → 'stf/data/ffpp.py', relative to the repository's root."""
    return module.replace(".", "/") + ".py"


def closure(graph: grimp.ImportGraph, command: str) -> list[str]:
    """The files a command imports, itself included, sorted. Packages' __init__.py are empty, so they are not listed."""
    modules = graph.find_upstream_modules(command) | {command}
    return sorted(file_of(module) for module in modules if not (ROOT / module.replace(".", "/")).is_dir())


def with_closures(text: str) -> str:
    """dvc.yaml's text with every stage's code block replaced by its import closure."""
    graph = import_graph()
    parts, starts = [], [match.start() for match in _COMMAND.finditer(text)]
    for start, end in zip([0, *starts], [*starts, len(text)], strict=True):
        part, command = text[start:end], _COMMAND.match(text[start:end])
        if command:
            files = "".join(f"      - {file}\n" for file in closure(graph, command[1]))
            part, found = _BLOCK.subn(lambda block, files=files: block["head"] + files + block["tail"], part)
            if found != 1:
                raise click.ClickException(
                    f"dvc.yaml: {command[1]} has no '# code: … # data' block under deps"
                )
        parts.append(part)
    return "".join(parts)


@click.command()
@click.option("--write", is_flag=True, help="Write dvc.yaml instead of comparing.")
def main(write: bool) -> None:
    """Compares dvc.yaml's code dependencies with the import closures."""
    path = ROOT / "dvc.yaml"
    text = path.read_text(encoding="utf-8")
    wanted = with_closures(text)
    if text == wanted:
        click.echo("dvc.yaml: every stage depends on exactly what it imports")
    elif write:
        path.write_text(wanted, encoding="utf-8")
        click.echo("dvc.yaml: updated")
    else:
        raise click.ClickException("dvc.yaml's dependencies differ from the import closure; run `make deps`")


if __name__ == "__main__":
    main()
