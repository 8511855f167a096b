"""The face cache as the commands use it: where it is, what it costs, and how it is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stf.console.face_cache import cost_text, print_uncached
from stf.console.progress import progress_bar
from stf.io.paths import repository_root

if TYPE_CHECKING:
    from rich.console import Console

    from stf.config import Params
    from stf.data.cache.build import Estimate
    from stf.data.cache.face_cache import FaceCache
    from stf.data.face_clip import Reader
    from stf.data.video import Video


def training_reader(params: Params, fingerprint: str) -> Reader:
    """How training reads its clips: from runtime.face_cache, which must be filled first, or from the PNGs."""
    from stf.data.face_clip import read_face_clip

    return face_cache(params, fingerprint).read if params.runtime.face_cache else read_face_clip


def prepare_face_cache(params: Params, fingerprint: str) -> None:
    """Builds what is missing in runtime.face_cache; does nothing when that parameter is empty.

    Of several processes on one disk, one builds and the others wait. Raises DataError when the disk is too small.
    """
    if not params.runtime.face_cache:
        return
    from rich.console import Console

    cache, videos = face_cache(params, fingerprint), training_videos(params)
    with cache.locked():
        fill(cache, videos, params.runtime.num_workers, Console())


def face_cache(params: Params, fingerprint: str) -> FaceCache:
    """Relative to the real repository: `dvc exp run --temp` deletes its working folder."""
    from stf.data.cache.face_cache import FaceCache

    root = repository_root() / params.runtime.face_cache
    return FaceCache.for_data(root, params.data, fingerprint)


def training_videos(params: Params) -> list[Video]:
    """The videos whose clips change from epoch to epoch; validation's are made once and kept in memory."""
    from stf.data.ffpp import FFPPTree

    return FFPPTree(params.data.root).real_videos("train", params.data.quality)


def fill(cache: FaceCache, videos: Sequence[Video], n_workers: int, console: Console) -> None:
    """Builds what is missing, if the disk has the space; prints what it costs and which clips are left out."""
    from stf.data.cache.build import build, require_space

    missing = cache.missing(videos)
    if not missing:
        return
    planned = measure(cache, missing, n_workers, console)
    require_space(cache, planned.n_bytes)
    console.print(f"face cache {cache.folder}:", cost_text(planned, n_workers), soft_wrap=True)
    with progress_bar(console, "caching faces") as advance:
        built = build(cache, missing, n_workers, advance)
    print_uncached(built, console)


def measure(cache: FaceCache, videos: Sequence[Video], n_workers: int, console: Console) -> Estimate:
    """The exact size, and the time, estimated from a few frames; writes nothing."""
    from stf.data.cache.build import estimate

    with progress_bar(console, "measuring faces") as advance:
        return estimate(cache, videos, n_workers, advance)
