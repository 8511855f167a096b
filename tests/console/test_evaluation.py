"""What a reader gets: tables of at most 100 columns, and the same statements as in the JSON."""

import dataclasses
import io
import re

import pytest
from rich.console import Console

from stf.config import METHODS
from stf.console.evaluation import interpretation, print_report
from stf.console.tables import WIDTH, make_console
from stf.evaluation.baselines import ScalarAuc
from stf.evaluation.intervals import Interval
from stf.evaluation.metrics import GroupMetrics
from stf.evaluation.outputs import Outputs, all_details, write_report
from stf.evaluation.results import OVERALL, SYNTHETIC_NOTE, TEST_DATA_USE, QualityResult


def printed(evaluation, baseline=None, phase="a", verbose=False):
    console = Console(file=io.StringIO(), width=WIDTH, highlight=False)
    print_report(console, evaluation, phase, TEST_DATA_USE[phase], baseline, verbose=verbose)
    return console.file.getvalue()


def flat(text):
    """The words, wherever the lines break."""
    return " ".join(text.split())


def with_overall_auc(evaluation, auc, interval=None):
    groups = dict(evaluation.headline.groups)
    groups[OVERALL] = dataclasses.replace(groups[OVERALL], auc=auc, auc_interval=interval)
    qualities = (QualityResult(evaluation.headline.quality, groups), *evaluation.qualities[1:])
    return dataclasses.replace(evaluation, qualities=qualities)


@pytest.fixture
def widest(evaluated):
    """The same with all four methods, the longest figures and names there can be."""
    interval = Interval(1.0, 1.0, 70, 2000)
    full = GroupMetrics(140, 560, 1.0, interval, *([1.0] * 8))
    groups = dict.fromkeys((*METHODS, OVERALL), full)
    scalar = ScalarAuc(140, 560, 1.0, interval)
    baselines = {name: dict.fromkeys(groups, scalar) for name in evaluated.baselines}
    qualities = tuple(QualityResult(result.quality, groups) for result in evaluated.qualities)
    return dataclasses.replace(evaluated, qualities=qualities, baselines=baselines, synthetic=True)


@pytest.mark.parametrize("verbose", [False, True])
def test_every_line_fits_100_columns_and_no_row_is_wrapped(widest, verbose):
    text = printed(widest, baseline=0.0, verbose=verbose)
    assert max(len(line) for line in text.splitlines()) <= 100
    for method in METHODS:
        row = next(line for line in text.splitlines() if line.strip().startswith(method))
        assert re.search(
            r"140 \+ 560 +100\.0 \[100\.0, 100\.0\] +100\.0 +Working +100\.0 +100\.0 +100\.0", row
        )
    assert "+100.0 on V7.3" in text
    assert "Change: +100.0 [+100.0, +100.0] points." in flat(text)
    assert make_console().width <= 100


def test_the_main_tables_columns_stand_in_this_order(evaluated):
    assert re.search(
        r"Method +N +AUC % \[95 %\] +Acc % +Interpretation +bits +sharp +face", printed(evaluated)
    )


def test_further_tables_are_printed_on_request(evaluated):
    text, verbose = printed(evaluated), printed(evaluated, verbose=True)
    assert "raw: AUC % Deepfakes" in text
    for title in ("At the validation threshold", "The same in raw", "Trivial baselines"):
        assert title not in text
        assert title in verbose


def test_overall_shows_the_change_against_the_store_or_against_ffpp(evaluated):
    e = with_overall_auc(evaluated, 0.8155, Interval(0.7155, 0.9155, 8, 2000))
    text = flat(printed(e))
    assert "+30.0 on V7.3" in text
    assert "V7.3: 51.55 %, its author's figure on FF++; `make baseline` adds a run on this data." in text
    assert "Change: +30.0 [+20.0, +40.0] points." in text
    text = flat(printed(e, baseline=0.8655))
    assert "V7.3: 86.55 %, this store's newest V7.3 run" in text
    assert "Change: -5.0 [-15.0, +5.0] points." in text


def test_a_row_without_figures_is_marked(evaluated):
    groups = dict(evaluated.headline.groups, FaceSwap=GroupMetrics(6, 0))
    e = dataclasses.replace(evaluated, qualities=(QualityResult("c23", groups),))
    assert re.search(r"FaceSwap +6 \+ 0 +n/a +n/a +n/a", printed(e))


@pytest.mark.parametrize("phase", ["a", "b"])
def test_every_report_names_the_gate_as_the_one_use_of_test_data(evaluated, phase):
    statement = TEST_DATA_USE[phase]
    assert statement in flat(printed(evaluated, phase=phase))
    assert all_details(evaluated, phase, "0")["test_data_use"] == statement
    assert "the one declared use of test data" in statement


def test_the_sample_is_called_synthetic_everywhere(evaluated, tmp_path):
    synthetic = dataclasses.replace(evaluated, synthetic=True)
    assert SYNTHETIC_NOTE in flat(printed(synthetic))
    assert SYNTHETIC_NOTE not in flat(printed(evaluated))
    assert all_details(synthetic, "a", "0")["note"] == SYNTHETIC_NOTE
    assert all_details(evaluated, "a", "0")["note"] is None
    plain, marked = Outputs.beside(tmp_path / "p.json"), Outputs.beside(tmp_path / "s.json")
    write_report(evaluated, plain, "a", "f00")
    write_report(synthetic, marked, "a", "f00")
    for one, other in ((plain.roc_plot, marked.roc_plot), (plain.scores_plot, marked.scores_plot)):
        assert one.read_bytes() != other.read_bytes()  # the title has a second line


def test_missing_videos_and_methods_are_listed(evaluated):
    table = evaluated.table.copy()
    table.loc[0, "error"] = "frames/006/003.png is truncated"
    real, *fakes = evaluated.videos.groups
    groups = (dataclasses.replace(real, missing=("099",), outside_splits=()), *fakes)
    videos = dataclasses.replace(evaluated.videos, groups=groups)
    e = dataclasses.replace(evaluated, table=table, videos=videos)
    text = flat(printed(e))
    assert "Not on disk in c23: Face2Face, NeuralTextures." in text
    assert "c23/real: 1 of 6 videos not fully readable: 006 (frames/006/003.png is truncated)" in text
    assert "c23/real: 1 test ids have no video: 099." in text
    account = all_details(e, "a", "0")["qualities"]["c23"]["videos"]["real"]
    assert account["unreadable"] == {"006": "frames/006/003.png is truncated"}
    assert (account["on_disk"], account["test_ids_without_video"]) == (6, ["099"])


def test_ignored_fakes_and_borrowed_geometry_are_reported(evaluated):
    groups = list(evaluated.videos.groups)
    fake = groups[1]
    borrowing = dataclasses.replace(fake.videos[0], borrowed_geometry=True)
    ids = tuple(f"9{i:02d}_006" for i in range(10))
    groups[1] = dataclasses.replace(fake, videos=(borrowing, *fake.videos[1:]), outside_splits=ids)
    videos = dataclasses.replace(evaluated.videos, groups=tuple(groups))
    e = dataclasses.replace(evaluated, videos=videos)
    text = flat(printed(e))
    assert "c23/Deepfakes: 1 fakes use their target's landmarks or boxes: 006_007." in text
    assert "c23/Deepfakes: 10 fakes ignored, target in no split file: 900_006," in text
    assert "907_006 and 2 more." in text
    account = all_details(e, "a", "0")["qualities"]["c23"]["videos"]["Deepfakes"]
    assert account["ignored_target_in_no_split"] == list(ids)
    assert account["with_geometry_of_their_target"] == ["006_007"]


def test_without_an_overall_auc_there_is_neither_change_nor_gate(evaluated):
    e = dataclasses.replace(with_overall_auc(evaluated, None), gate=None)
    text = flat(printed(e))
    assert "points" not in text
    assert "Gate of phase B (overall" not in text
    assert all_details(e, "a", "0")["gate"] is None


def test_interpretation_grades_at_the_exact_bounds():
    grades = {0.75: "Working", 0.7499: "Moderate", 0.70: "Moderate", 0.6999: "Needs work", None: "n/a"}
    assert {auc: interpretation(auc) for auc in grades} == grades
