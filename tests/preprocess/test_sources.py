"""The mapping from files to videos, and the split files for the user's own videos."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stf.data.splits import read_split
from stf.errors import DataError, UsageError
from stf.preprocess.sources import Defaults, find_jobs
from stf.preprocess.write_splits import draw_splits, missing_splits, pairs_of, write_splits

ANY = Defaults(None, None)


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(inputs: list[Path], defaults: Defaults = ANY, table: Path | None = None) -> list[str]:
    return sorted(job.name for job in find_jobs(inputs, table, defaults).jobs)


def test_ffpps_own_download_is_mapped_by_its_folders(tmp_path: Path) -> None:
    root = tmp_path / "ff"
    touch(
        root / "original_sequences/youtube/c23/videos/000.mp4",
        root / "original_sequences/youtube/raw/videos/000.mp4",
        root / "original_sequences/actors/c23/videos/01__talking.mp4",
        root / "original_sequences/youtube/c23/masks/videos/000.txt",
        root / "manipulated_sequences/Deepfakes/c23/videos/000_003.mp4",
        root / "manipulated_sequences/FaceShifter/c23/videos/000_003.mp4",
        root / "manipulated_sequences/DeepFakeDetection/c23/videos/01_02__walk__X.mp4",
    )
    everything = ["Deepfakes/c23/000_003", "real/c23/000", "real/raw/000"]
    assert names([root]) == everything
    assert find_jobs([root], None, ANY).refused == []
    assert names([root], Defaults("c23", None)) == everything[:2]
    assert names([root], Defaults(None, "Deepfakes")) == everything[:1]
    assert names([root / "original_sequences/youtube/c23/videos"]) == ["real/c23/000"]
    assert names([root / "manipulated_sequences/Deepfakes/c23/videos/000_003.mp4"]) == everything[:1]


def test_own_videos_are_mapped_by_their_names(tmp_path: Path) -> None:
    touch(
        tmp_path / "a/anna.MP4",
        tmp_path / "a/b/bert.mkv",
        tmp_path / "a/.hidden.mp4",
        tmp_path / "a/notes.txt",
    )
    assert names([tmp_path / "a"]) == ["real/raw/anna", "real/raw/bert"]
    assert names([tmp_path / "a/anna.MP4"], Defaults("c40", None)) == ["real/c40/anna"]
    touch(tmp_path / "f/anna_bert.mp4")
    assert names([tmp_path / "f"], Defaults("c23", "FaceSwap")) == ["FaceSwap/c23/anna_bert"]
    with pytest.raises(UsageError, match="nowhere does not exist"):
        find_jobs([tmp_path / "nowhere"], None, ANY)


@pytest.mark.parametrize("name", ["a..", "a b", "a_b", "a.b", "ä", "x" * 65, "-.-", "a\nb", "%2e%2e"])
def test_a_file_name_that_is_not_a_valid_id_is_refused(name: str, tmp_path: Path) -> None:
    touch(tmp_path / "v" / f"{name}.mp4", tmp_path / "v/good.mp4")
    sources = find_jobs([tmp_path / "v"], None, ANY)
    assert [job.video_id for job in sources.jobs] == ["good"]
    assert "is not a video id" in sources.refused[0]
    fakes = find_jobs([tmp_path / "v"], None, Defaults(None, "Deepfakes"))
    assert [job.video_id for job in fakes.jobs] == (["a_b"] if name == "a_b" else [])
    assert "TARGET_SOURCE" in fakes.refused[-1]


def test_the_second_file_with_one_id_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "a/000.mp4", tmp_path / "b/000.mov")
    sources = find_jobs([tmp_path], None, ANY)
    assert len(sources.jobs) == 1
    assert "a/000.mp4 maps to the same video, real/raw/000" in sources.refused[0]


def table(tmp_path: Path, text: str) -> Path:
    (tmp_path / "videos.csv").write_text(text, encoding="utf-8-sig")
    return tmp_path / "videos.csv"


def test_a_table_sets_id_method_quality_and_split(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "file,id,method,quality,split\nmy clip_1.mp4,anna,,c40,train\nx/anna_bert.mp4,,FaceSwap,,\nbert.mp4,,,,train\n",
    )
    sources = find_jobs([], path, Defaults("c23", None))
    assert {job.name: job.source for job in sources.jobs} == {
        "real/c40/anna": tmp_path / "my clip_1.mp4",
        "FaceSwap/c23/anna_bert": tmp_path / "x/anna_bert.mp4",
        "real/c23/bert": tmp_path / "bert.mp4",
    }
    assert sources.splits == {"anna": "train", "bert": "train"}


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", DataError, "'file' is missing"),
        ("path\na.mp4\n", DataError, "unknown: path"),
        ("file\na.mp4,b,c\n", DataError, "unknown: too many"),
        ('file\n"a.mp4\n', DataError, "cannot be read as a CSV table"),
        ("file,method\na.mp4,Magic\n", UsageError, "line 2: unknown method 'Magic'"),
        ("file,quality\na.mp4,c99\n", UsageError, "line 2: unknown quality 'c99'"),
        ("file,split\na.mp4,dev\n", UsageError, "line 2: unknown split 'dev'"),
        (
            "file,id,method,split\na.mp4,a,,train\nb.mp4,a_b,FaceSwap,test\n",
            UsageError,
            "put each identity into one split",
        ),
    ],
)
def test_an_invalid_table_gives_a_one_line_error(
    text: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        find_jobs([], table(tmp_path, text), ANY)


def test_a_hostile_table_cannot_leave_the_tree(tmp_path: Path) -> None:
    sources = find_jobs([], table(tmp_path, "file,id\na.mp4,../../etc/x\nb.mp4,/etc/x\n"), ANY)
    assert sources.jobs == []
    assert len(sources.refused) == 2


def test_drawn_splits_are_deterministic_disjoint_and_have_at_least_two_each() -> None:
    ids = [f"{i:03d}" for i in range(100)]
    drawn = draw_splits(ids)
    assert drawn == draw_splits(ids[::-1])
    counts = [sum(split == own for own in drawn.values()) for split in ("train", "val", "test")]
    assert counts == [72, 14, 14]
    assert sorted(draw_splits(ids[:6]).values()) == ["test"] * 2 + ["train"] * 2 + ["val"] * 2
    with pytest.raises(UsageError, match="5 real videos cannot be split"):
        draw_splits(ids[:5])


@pytest.mark.parametrize("n", range(2, 9))
def test_pairs_contain_everyone_and_nobody_is_paired_with_themselves(n: int) -> None:
    ids = [f"p{i}" for i in range(n)]
    for fakes in ([], ["p1_p0", "p0_p1"], ["p0_other"]):
        pairs = pairs_of(ids, fakes)
        assert {identity for pair in pairs for identity in pair} == set(ids)
        assert all(a != b for a, b in pairs)
        assert len({frozenset(pair) for pair in pairs}) == len(pairs) or n == 2
        assert fakes != ["p1_p0", "p0_p1"] or ("p1", "p0") in pairs


def test_written_splits_can_be_read_and_invalid_ones_are_not_written(tmp_path: Path) -> None:
    split_of = {"a": "train", "b": "train", "c": "val", "d": "val", "e": "test", "f": "test", "g": "test"}
    assert missing_splits(tmp_path) == ["train", "val", "test"]
    write_splits(tmp_path, split_of, ["f_e"])
    assert read_split(tmp_path / "FaceForensics++/test.json") == [("f", "e"), ("g", "e")]
    assert json.loads((tmp_path / "FaceForensics++/train.json").read_text()) == [["a", "b"]]
    with pytest.raises(UsageError, match="the split 'test' has 1 identities"):
        write_splits(tmp_path / "other", {k: v for k, v in split_of.items() if k not in "fg"}, [])
    assert not (tmp_path / "other").exists()


def test_both_people_of_a_fake_are_in_one_split() -> None:
    ids = [f"p{i}" for i in range(20)]
    fakes = ["p0_p1", "p1_p2", "p5_p6", "p8_new", "p11_p12", "p13_p14"]
    drawn = draw_splits(ids, fakes)
    assert drawn == draw_splits(ids[::-1], fakes[::-1])
    for target, source in (fake.split("_") for fake in fakes):
        assert drawn[target] == drawn[source]
    assert drawn.keys() == {*ids, "new"}
    sizes = [sum(drawn[i] == split for i in ids) for split in ("train", "val", "test")]
    assert sizes == [14, 3, 3]
    assert {drawn[fake.split("_")[0]] for fake in fakes} == {"test", "train"}
    ring = [f"p{i}_p{(i + 1) % 20}" for i in range(20)]
    with pytest.raises(UsageError, match="link too many people"):
        draw_splits(ids, ring)
