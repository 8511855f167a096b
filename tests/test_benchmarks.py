"""The harness of benchmarks/ measures time and memory correctly, and every script there starts."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from benchmarks import all as bench
from benchmarks import pipeline_overhead as overhead
from benchmarks.harness import Measured, interleaved, peak_mb, print_table, timed_s

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))
LIBRARIES = ("harness",)  # everything else in benchmarks/ is a command


def spin(cpu_s: float) -> None:
    """Keeps a core busy for `cpu_s` seconds of CPU time."""
    end = time.process_time() + cpu_s
    while time.process_time() < end:
        pass


def test_variants_run_in_turns_with_a_warm_up_and_once_more_for_memory() -> None:
    calls: list[str] = []
    measured = interleaved({name: lambda n=name: calls.append(n) for name in "abc"}, repeats=3, warmup=2)
    assert "".join(calls) == "abc" * 5 + "abc"
    assert list(measured) == ["a", "b", "c"]
    assert all(measured[name].name == name and measured[name].repeats == 3 for name in "abc")


def test_time_is_the_median_of_the_rounds_without_the_warm_up() -> None:
    durations = iter([0.2, 0.01, 0.2, 0.01, 0.01])  # warm-up, three rounds, memory
    measured = interleaved({"work": lambda: spin(next(durations))}, repeats=3)
    assert measured["work"].cpu_s == pytest.approx(0.01, abs=0.03)


def test_sleep_is_wall_time_only_and_work_of_a_child_is_cpu_time() -> None:
    wall_s, cpu_s = timed_s(lambda: time.sleep(0.1))
    assert wall_s >= 0.1
    assert cpu_s < 0.05
    program = "import time\nwhile time.process_time() < .3: pass"
    _, cpu_s = timed_s(lambda: subprocess.run((sys.executable, "-c", program), check=True))
    assert cpu_s >= 0.3


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no Linux /proc")
def test_peak_memory_counts_what_is_held_at_once_and_memory_that_malloc_reuses() -> None:
    def one_after_the_other() -> None:
        for _ in range(3):
            np.ones(64 * 2**20, np.uint8)

    def together() -> list[np.ndarray]:
        return [
            np.ones(2**16, np.uint8) for _ in range(512)
        ]  # small blocks, which malloc keeps when they are freed

    for work, mb in 2 * ((one_after_the_other, 64), (together, 32), (lambda: None, 0)):
        assert peak_mb(work) == pytest.approx(mb, abs=2)


def test_table_shows_ratios_in_at_most_100_columns(capsys: pytest.CaptureFixture[str]) -> None:
    measured = {
        "reference": Measured("reference", 2.0, 1.0, 1234.5, 5),
        "ours": Measured("ours", 0.5, 0.25, 0.5, 5),
        "slow " * 30: Measured("slow " * 30, 4321.0, 4321.0, math.nan, 5),
    }
    print_table("title " * 30, measured, "reference", unit="ms")
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    rows = {line.split()[0]: line for line in out.splitlines() if " MB" in line}
    assert rows["reference"].split()[1:] == ["1,000", "ms", "2,000", "ms", "reference", "1,234", "MB"]
    assert rows["ours"].split()[1:] == ["250", "ms", "500", "ms", "4.00", "×", "as", "fast", "0.500", "MB"]
    assert "4,321,000 ms" in out
    assert "0.000231 × as fast" in out
    assert f"Python {sys.version.split()[0]}" in out


def test_table_rejects_a_reference_that_was_not_measured() -> None:
    with pytest.raises(ValueError, match="other"):
        print_table("title", {"ours": Measured("ours", 1, 1, 0, 1)}, "other")


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in LIBRARIES])
def test_every_script_has_help(name: str) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    done = CliRunner().invoke(module.main, ["--help"])
    assert done.exit_code == 0, done.output
    assert "Usage:" in done.output
    assert (ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8").rstrip().endswith("\n    main()")
    assert f"python -m benchmarks.{name}" in (module.__doc__ or "")


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The results file of a benchmarks/ with three scripts, the second of which fails."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    monkeypatch.setattr(bench, "HERE", folder)
    monkeypatch.setattr(bench, "NAMES", ("h264", "scan", "step"))
    for name, last_line in zip(bench.NAMES, ("", "raise SystemExit(3)", ""), strict=True):
        text = (
            f'"""What {name} shows: python -m benchmarks.{name}"""\nprint("figures of {name}")\n{last_line}\n'
        )
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return folder / "results.md"


def test_a_failing_benchmark_is_reported_and_the_others_are_kept(results: Path) -> None:
    done = CliRunner().invoke(bench.main, ["--out", str(results)])
    assert done.exit_code == 1
    assert "failed: scan" in done.output
    text = results.read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## h264", "## scan", "## step"]
    assert text.count("failed with exit code 3") == 1
    for name in bench.NAMES:
        assert f"\nWhat {name} shows.\n" in text
        assert f"```\n$ python -m benchmarks.{name}\nfigures of {name}\n```\n" in text
    assert not list(results.parent.glob(".*"))  # no temporary file left


def test_a_name_replaces_its_own_section_only(results: Path) -> None:
    CliRunner().invoke(bench.main, ["--out", str(results)])
    before = bench.sections_of(results)
    for name in bench.NAMES:
        (results.parent / f"{name}.py").write_text('print("new figures")', encoding="utf-8")
    assert CliRunner().invoke(bench.main, ["step", "--out", str(results)]).exit_code == 0
    after = bench.sections_of(results)
    assert {name: after[name] for name in ("h264", "scan")} == {
        name: before[name] for name in ("h264", "scan")
    }
    assert "new figures" in after["step"]


def test_the_bare_pipeline_has_our_files_and_is_up_to_date(tmp_path: Path) -> None:
    root = tmp_path / "ours"
    contents = {"code.py": 10, "data/a/0.png": 2000, "data/a/1.png": 0, "data/b.npy": 700, "scores.json": 3}
    for name, size in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(bytes(size))
    lock = {
        "make": {"cmd": "x", "deps": [{"path": "code.py"}], "outs": [{"path": "data"}]},
        "score": {"cmd": "y", "deps": [{"path": "data"}], "outs": [{"path": "scores.json"}], "params": {}},
    }
    stages = overhead.bare_stages({"stages": lock})
    assert stages["score"] == {"cmd": "true", "deps": ["data"], "outs": ["scores.json"]}
    assert overhead.files_of(root, stages) == contents
    bare = tmp_path / "bare"
    overhead.make_repository(bare, stages, contents)
    assert overhead.files_of(bare, stages) == contents
    assert len({(bare / name).read_bytes() for name in contents}) == len(contents)
    overhead.require_up_to_date(bare)
    (bare / "code.py").write_text("changed", encoding="utf-8")
    with pytest.raises(click.ClickException, match="make repro"):
        overhead.require_up_to_date(bare)


def test_each_tiny_stage_reads_what_the_previous_one_writes(tmp_path: Path) -> None:
    stages = overhead.tiny_stages()
    assert len(stages) == 5
    outs = [stage["outs"] for stage in stages.values()]
    assert [stage["deps"] for stage in stages.values()][1:] == outs[:-1]
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    with pytest.raises(click.ClickException, match="make repro"):  # not even a repository
        overhead.require_up_to_date(tmp_path)


def test_every_benchmark_is_listed() -> None:
    assert set(bench.NAMES) == set(SCRIPTS) - {"all", "hd_videos", *LIBRARIES}
