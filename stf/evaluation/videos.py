"""Which videos of the test split are scored, and which are not there to be scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stf.config import METHODS, nearest_name
from stf.data.ffpp import FFPPTree, split_fake_id
from stf.data.video import Video
from stf.errors import DataError, UsageError

SPLIT = "test"


@dataclass(frozen=True)
class VideoGroup:
    """The test videos of one quality that are real (`method` None) or faked by one method."""

    quality: str
    method: str | None
    videos: tuple[Video, ...]
    missing: tuple[str, ...]  # ids of the split without a video (a fake: without one that has this target)
    outside_splits: tuple[str, ...]  # fakes ignored because no split file lists their target


@dataclass(frozen=True)
class TestVideos:
    """All groups to score; the headline quality comes first, then the others on disk as raw, c23, c40."""

    __test__ = False  # pytest would take the name for a test class

    groups: tuple[VideoGroup, ...]
    not_on_disk: dict[str, tuple[str, ...]]  # quality → the wanted methods that are not there

    @property
    def qualities(self) -> tuple[str, ...]:
        return tuple(self.not_on_disk)

    def methods(self, quality: str) -> tuple[str, ...]:
        """The methods on disk in that quality, in the order they were asked for."""
        return tuple(g.method for g in self.groups if g.quality == quality and g.method is not None)


def parse_methods(texts: Sequence[str]) -> tuple[str, ...]:
    """The methods named by --methods, each text one name or several with commas; raises UsageError."""
    names = [name.strip() for text in texts for name in text.split(",") if name.strip()]
    for name in names:
        if name not in METHODS:
            known = f"known: {', '.join(METHODS)}"
            hint = nearest_name(name, list(METHODS))
            raise UsageError(f'--methods: "{name}" is no manipulation method{hint}; {known}')
    if texts and not names:
        raise UsageError(f"--methods names no method; known: {', '.join(METHODS)}")
    return tuple(dict.fromkeys(names))


def select_videos(tree: FFPPTree, methods: Sequence[str], headline: str) -> TestVideos:
    """The test videos of every quality on disk that holds reals and at least one wanted method.

    Raises DataError when the headline quality holds no real test video or no test fake of any wanted method.
    """
    groups: list[VideoGroup] = []
    not_on_disk: dict[str, tuple[str, ...]] = {}
    for quality in [headline] + [q for q in tree.qualities() if q != headline]:
        reals = _group(tree, None, quality)
        there = [m for m in methods if m in tree.methods(quality)]
        fakes = [group for m in there if (group := _group(tree, m, quality)).videos]
        if quality == headline:
            _require_both(tree, reals, fakes, methods)
        if reals.videos and fakes:
            groups += [reals, *fakes]
            not_on_disk[quality] = tuple(m for m in methods if m not in {group.method for group in fakes})
    return TestVideos(tuple(groups), not_on_disk)


def _require_both(
    tree: FFPPTree, reals: VideoGroup, fakes: Sequence[VideoGroup], methods: Sequence[str]
) -> None:
    quality = reals.quality
    if not reals.videos:
        hint = "`dvc repro verify_data` shows what is there"
        raise DataError(f"{tree.root} has no real test video in {quality}; {hint}")
    if not fakes:
        on_disk = ", ".join(m for m in tree.methods(quality) if tree.fake_videos(SPLIT, m, quality)) or "none"
        raise DataError(
            f"{tree.root} holds no test video of {', '.join(methods)} in {quality}; methods on disk there: "
            f"{on_disk}. Set evaluation.methods (or --methods) and data.quality to what is there"
        )


def _group(tree: FFPPTree, method: str | None, quality: str) -> VideoGroup:
    videos = tree.real_videos(SPLIT, quality) if method is None else tree.fake_videos(SPLIT, method, quality)
    targets = {video.target_id for video in videos}
    missing = tuple(identity for identity in tree.ids(SPLIT) if identity not in targets)
    outside: list[str] = []
    for video_id in tree.video_ids(method, quality) if method is not None else ():
        parts = split_fake_id(video_id)
        if parts is None or tree.split_of(parts[0]) is None:
            outside.append(video_id)
    return VideoGroup(quality, method, tuple(videos), missing, tuple(outside))
