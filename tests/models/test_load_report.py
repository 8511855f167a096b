"""The report of a flexible load: complete counts, modules instead of long lists of names, fit for a console."""

import pytest

from stf.models.load_report import KINDS, TABLE_WIDTH, LoadReport, module_group


def report(**names) -> LoadReport:
    kinds = {kind: tuple(names.get(kind, ())) for kind in KINDS}
    every = [name for group in kinds.values() for name in group]
    return LoadReport(**kinds, restored=(), sizes={name: 10 * (i + 1) for i, name in enumerate(every)})


MIXED = report(
    loaded=["early.stem.pixels.weight", "stage3.0.norm1.weight", "stage3.1.norm1.weight", "head.weight"],
    new=["stage3.0.mixer.in_proj.weight", "stage3.0.mixer.A_log", "stage3.12.mixer.A_log"],
    dropped=["stage3.0.mixer.x_proj"],
)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("stage3.12.mixer.in_proj.weight", "stage3.*.mixer"),
        ("stage3.0.mixer.A_log", "stage3.*.mixer"),
        ("early.hll_gate.dwt.projection.weight", "early.hll_gate.dwt"),
        ("early.stage1.1.snake.steps.bias", "early.stage1.*"),
        ("head.weight", "head"),
        ("scale", "scale"),
    ],
)
def test_blocks_of_a_stage_are_one_group(name, group):
    assert module_group(name) == group


def test_rows_hold_every_tensor_once():
    rows = MIXED.as_rows()
    assert [(r["kind"], r["module"], r["tensors"], r["parameters"]) for r in rows] == [
        ("loaded", "early.stem.pixels", 1, 10),
        ("loaded", "stage3.*.norm1", 2, 20 + 30),
        ("loaded", "head", 1, 40),
        ("new", "stage3.*.mixer", 3, 50 + 60 + 70),
        ("dropped", "stage3.*.mixer", 1, 80),
    ]
    for kind in KINDS:
        of_kind = [row for row in rows if row["kind"] == kind]
        assert sum(row["tensors"] for row in of_kind) == MIXED.counts()[f"{kind}_tensors"]
        assert sum(row["parameters"] for row in of_kind) == MIXED.counts()[f"{kind}_parameters"]


def test_the_table_lists_counts_and_modules_of_every_kind():
    table = MIXED.table()
    lines = table.splitlines()
    assert lines[0].split() == ["tensors", "parameters"]
    figures = {line.split()[0]: line.split()[1:3] for line in lines if line.split()[0] in KINDS}
    assert figures == {
        "loaded": ["4", "100"],
        "new": ["3", "180"],
        "dropped": ["1", "80"],
        "reshaped": ["0", "0"],
    }
    assert "stage3.*.norm1 (2)" in table
    assert "stage3.*.mixer (3)" in table


def test_the_table_fits_a_console_and_omits_no_module():
    names = [f"part{i}-of-many.block.{i}.weight" for i in range(60)]
    table = report(new=names).table()
    assert max(map(len, table.splitlines())) <= TABLE_WIDTH
    assert all(f"{module_group(name)} (1)" in table for name in names)
