"""Converts raw videos to the FF++ layout: consecutive frames, one tracked face, 81 landmarks, boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli import command
from stf.config import METHODS, QUALITIES

if TYPE_CHECKING:
    from rich.console import Console

    from stf.preprocess.sources import Sources
    from stf.preprocess.store import Job
    from stf.preprocess.video import Settings, VideoEntry


LOCK_S = 30.0  # the processes of a killed run exit within one frame


@command
@click.argument("videos", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--root",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder to write FaceForensics++/ into.",
)
@click.option(
    "--table", type=click.Path(dir_okay=False, path_type=Path), help="CSV: file, id, method, quality, split."
)
@click.option(
    "--quality",
    type=click.Choice(QUALITIES),
    help="Quality of files outside FF++'s download layout (default: raw); filters files inside it.",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    help="Method of fakes outside FF++'s download layout (default: real videos); filters files inside it.",
)
@click.option(
    "--max-frames",
    default=300,
    show_default=True,
    type=click.IntRange(min=0),
    help="Frames per video; 0 for all.",
)
@click.option(
    "--start", default=0, show_default=True, type=click.IntRange(min=0), help="The first frame to use."
)
@click.option(
    "--num-frames",
    default=32,
    show_default=True,
    type=click.IntRange(min=1),
    help="The clip length (data.num_frames); shorter videos are reported.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Videos at a time; default: the number of cores.")
@click.option("--predictor", type=click.Path(dir_okay=False), help="A dlib model with 81 or 68 points.")
@click.option(
    "--detect-size",
    default=640,
    show_default=True,
    type=click.IntRange(min=0),
    help="Longer side in pixels at which faces are searched; 0 for full size.",
)
@click.option(
    "--splits",
    is_flag=True,
    help="Write train, val and test.json, from the table or drawn at random (72/14/14).",
)
@click.option(
    "--report",
    default=None,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The report file; default: ROOT/preprocess.json.",
)
@click.option(
    "--time-limit", default=3600.0, show_default=True, type=click.FloatRange(min=1), help="Seconds per video."
)
def main(videos: tuple[Path, ...], root: Path, **options: Any) -> None:
    """Convert raw VIDEOS (files or folders) to the layout that training reads.

    FF++'s own download is recognised by its folders; other files are real videos named ID.mp4 or, with --method, fakes
    named TARGET_SOURCE.mp4. Complete videos are skipped, so the same command resumes an interrupted run. A broken video
    is reported and does not stop the others; the exit code is then 1. Needs the optional extra `preprocess`.
    """
    from stf.console.preprocess import summary, videos_table
    from stf.console.tables import make_console
    from stf.errors import DataError, UsageError
    from stf.io.outputs import require_own_json, write_json
    from stf.io.values import printable
    from stf.preprocess.report import damaged, remarks, report_json
    from stf.preprocess.sources import Defaults, find_jobs

    if options["report"] is not None:
        require_own_json("--report", options["report"], "refused")
    console = make_console()
    sources = find_jobs(videos, options["table"], Defaults(options["quality"], options["method"]))
    if not sources.jobs and not sources.refused:
        raise UsageError("no videos found; give video files, folders of them, or a --table")
    settings = _settings(options)
    entries = _preprocess_all(root, settings, sources.jobs, options, console)
    console.print(videos_table(entries))
    report = options["report"] or root / "preprocess.json"
    all_entries = _merge_earlier(root, entries)
    write_json(report, report_json(all_entries, sources.refused))
    for line in sources.refused:
        console.print(f"refused: {printable(line)}", style="red", markup=False, soft_wrap=True)
    console.print(f"{summary(entries, len(sources.refused))}\nreport: {report}", markup=False, soft_wrap=True)
    _write_splits(root, sources, all_entries, options["num_frames"] if options["splits"] else None, console)
    failed = [entry for entry in entries if entry.outcome == "failed"] + damaged(entries)
    if sources.refused or failed:
        first = sources.refused[0] if not failed else f"{failed[0].name}: {remarks(failed[0])}"
        n_failed, n_total = len(sources.refused) + len(failed), len(entries) + len(sources.refused)
        raise DataError(f"{n_failed} of {n_total} videos failed or are incomplete; the first: {first}")


def _merge_earlier(root: Path, entries: Sequence[VideoEntry]) -> list[VideoEntry]:
    """Returns the entries of this command and of earlier ones in the same tree."""
    from stf.preprocess.store import complete_entries
    from stf.preprocess.video import VideoEntry

    earlier = (VideoEntry.from_dict(entry | {"outcome": "kept"}) for entry in complete_entries(root))
    return list(
        ({entry.name: entry for entry in earlier} | {entry.name: entry for entry in entries}).values()
    )


def _settings(options: dict[str, Any]) -> Settings:
    """Builds the settings and loads the detector: a missing extra fails at once, and processes share the model."""
    from functools import partial

    from stf.preprocess.dlib_detector import dlib_detector
    from stf.preprocess.video import Settings

    detector = partial(dlib_detector, options["predictor"], options["detect_size"])
    detector()
    return Settings(detector, options["start"], options["max_frames"], options["num_frames"])


def _preprocess_all(
    root: Path, settings: Settings, jobs: Sequence[Job], options: dict[str, Any], console: Console
) -> list[VideoEntry]:
    """Preprocesses all videos in parallel; only one command at a time may write to a tree."""
    from filelock import FileLock, Timeout

    from stf.console.progress import progress_bar
    from stf.errors import UsageError
    from stf.io.cores import usable_cores
    from stf.preprocess.store import prepare_state
    from stf.preprocess.video import preprocess_videos

    entries: list[VideoEntry] = []
    n_workers, limit_s = options["workers"] or usable_cores(), options["time_limit"]
    try:
        with (
            catch_signals() as check_interrupt,
            FileLock(prepare_state(root) / "lock", timeout=LOCK_S),
            progress_bar(console, "videos") as advance,
            closing(preprocess_videos(root, settings, jobs, n_workers, limit_s, check_interrupt)) as results,
        ):
            for entry in results:
                entries.append(entry)
                advance(len(entries), len(jobs))
    except Timeout:
        raise UsageError(f"another preprocess command is writing to {root}; wait for it or stop it") from None
    return entries


@contextmanager
def catch_signals() -> Iterator[Callable[[], None]]:
    """Yields a function that raises Interrupted after Ctrl-C or SIGTERM; the next run restarts unfinished videos."""
    import signal

    from stf.errors import Interrupted

    received: list[int] = []

    def check_interrupt() -> None:
        if received:
            name = signal.Signals(received[0]).name
            raise Interrupted(f"stopped by {name}; run the same command again to resume", 128 + received[0])

    signals = (signal.SIGINT, signal.SIGTERM)
    previous = {
        signum: signal.signal(signum, lambda number, _: received.append(number)) for signum in signals
    }
    try:
        yield check_interrupt
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def _write_splits(
    root: Path, sources: Sources, entries: Sequence[VideoEntry], num_frames: int | None, console: Console
) -> None:
    """Writes the split files for videos with a clip of `num_frames`; with None, only reports missing files."""
    from stf.data.ffpp import SPLITS
    from stf.preprocess.write_splits import draw_splits, missing_splits, write_splits

    missing = missing_splits(root)
    if num_frames is None:
        if missing:
            names = ", ".join(f"{split}.json" for split in missing)
            hint = "copy them from FF++'s download, or use --splits for your own videos"
            console.print(f"{root}/FaceForensics++ lacks {names}; {hint}", markup=False, soft_wrap=True)
        return
    if len(missing) < len(SPLITS):
        console.print(
            "the existing split files were not changed; delete them and use --splits to write new ones"
        )
        return
    usable = [
        entry.name.split("/")
        for entry in entries
        if entry.outcome != "failed" and entry.longest_run >= num_frames
    ]
    reals = sorted({video_id for group, _, video_id in usable if group == "real"})
    fakes = sorted({video_id for group, _, video_id in usable if group != "real"})
    people = {person for fake in fakes for person in fake.split("_")}
    from_table = {i: split for i, split in sources.splits.items() if i in people.union(reals)}
    split_of = from_table or draw_splits(reals, fakes)
    write_splits(root, split_of, fakes)
    origin = (
        "from the table"
        if from_table
        else "drawn at random; a person in several videos may be in several splits"
    )
    written = f"wrote train, val and test.json: {len(split_of)} identities with a clip of {num_frames} frames"
    console.print(f"{written}, {origin}", soft_wrap=True)


if __name__ == "__main__":
    main()
