"""What became of every tensor when a checkpoint was loaded into a network that it need not fit."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

TABLE_WIDTH = 100
GROUP_DEPTH = 3
INDENT, NO_BREAK = " " * 11, "\N{NO-BREAK SPACE}"
KINDS = {
    "loaded": "taken from the file",
    "new": "not in the file, kept as initialised",
    "dropped": "in the file, not in the network",
    "reshaped": "of another shape in the file, kept as initialised",
}


def module_group(name: str) -> str:
    """A tensor's module, a stage's blocks together: "stage3.*.mixer" for "stage3.2.mixer.in_proj.weight"."""
    parts = ["*" if part.isdecimal() else part for part in name.split(".")]
    return ".".join(parts[:-1][:GROUP_DEPTH]) or name


@dataclass(frozen=True)
class LoadReport:
    """What `load_checkpoint_flexible` did, by the names of the network's tensors and, for `dropped`, of the file's.

    `sizes` tells how many numbers each of them holds; `restored` names optimizer, scheduler and scaler. `epoch` and
    `best_auc` are the file's, None where it holds none.
    """

    loaded: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]
    reshaped: tuple[str, ...]
    restored: tuple[str, ...]
    sizes: Mapping[str, int]
    epoch: int | None = None
    best_auc: float | None = None

    def names(self, kind: str) -> tuple[str, ...]:
        """The names of one of KINDS."""
        return {"loaded": self.loaded, "new": self.new, "dropped": self.dropped, "reshaped": self.reshaped}[
            kind
        ]

    def parameters(self, kind: str) -> int:
        """How many numbers the tensors of one of KINDS hold together."""
        return sum(self.sizes[name] for name in self.names(kind))

    def as_rows(self) -> list[dict[str, str | int]]:
        """One row per kind and group of modules: kind, module, tensors, parameters; in the network's order."""
        rows: list[dict[str, str | int]] = []
        for kind in KINDS:
            tensors, parameters = Counter[str](), Counter[str]()
            for name in self.names(kind):
                tensors[module_group(name)] += 1
                parameters[module_group(name)] += self.sizes[name]
            rows += [
                {"kind": kind, "module": group, "tensors": n, "parameters": parameters[group]}
                for group, n in tensors.items()
            ]
        return rows

    def counts(self) -> dict[str, int]:
        """Flat numbers for a log: "loaded_tensors", "loaded_parameters", … of every kind."""
        tensors = {f"{kind}_tensors": len(self.names(kind)) for kind in KINDS}
        return tensors | {f"{kind}_parameters": self.parameters(kind) for kind in KINDS}

    def table(self) -> str:
        """Tensors and parameters of each kind, and under it the modules with their tensors; TABLE_WIDTH columns."""
        lines = [f"{'':>8} {'tensors':>8} {'parameters':>12}"]
        for kind, meaning in KINDS.items():
            lines.append(
                f"{kind:>8} {len(self.names(kind)):8,d} {self.parameters(kind):12,d}  {meaning}".rstrip()
            )
            of_kind = [row for row in self.as_rows() if row["kind"] == kind]
            groups = ", ".join(f"{row['module']}{NO_BREAK}({row['tensors']})" for row in of_kind)
            wrapped = textwrap.fill(
                groups, TABLE_WIDTH, initial_indent=INDENT, subsequent_indent=INDENT, break_on_hyphens=False
            )
            lines += wrapped.replace(NO_BREAK, " ").splitlines()
        return "\n".join(lines)
