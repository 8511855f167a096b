"""The audit detects a leaking recipe, passes the correct one, and computes its statistics correctly."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import pywt
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from stf.audit import leak_audit
from stf.audit.leak_audit import (
    SETTINGS,
    AuditReport,
    MeasuredPair,
    judge_probes,
    measure_pair,
    require_no_leak,
    run_audit,
    wilson_interval,
)
from stf.audit.probes import GREY, PROBES, Background, MARGIN_px, background_of, fill_grey, measure
from stf.audit.report import audit_details, audit_metrics, tracked_audit
from stf.audit.test_set_baselines import MEASURES, REAL, MeasuredVideo, compute_baselines, measure_test_videos
from stf.config import AuditParams, DataParams, SbiParams, STFV8Config
from stf.data.augment.codec import h264_round_trip
from stf.data.augment.colour import SourceTransform
from stf.data.ffpp import FFPPTree
from stf.data.video_sbi_dataset import Pair, Provenance, VideoSBIDataset
from stf.errors import DataError

AUDIT = AuditParams(pairs=200)
SIZE = (176, 128)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, tree_writer: Callable[..., Path]) -> DataParams:
    root = tree_writer(tmp_path_factory.mktemp("audit") / "data", size=SIZE)
    return DataParams(root=str(root), num_frames=8, img_size=32)


def native_pairs(data: DataParams, n: int) -> Iterator[Pair]:
    """Yields pairs of the correct recipe without H.264, so that a test can apply its own compression."""
    config = STFV8Config(num_frames=8, img_size=32, data_root=data.root, use_multiscale_drift=True)
    dataset = VideoSBIDataset("train", config, data=data)
    for number in range(n):
        yield dataset.pair(number // dataset.n_pairs, number % dataset.n_pairs, stage="native")


def transform_only_the_fake(pair: Pair, rng: np.random.Generator) -> Pair:
    """Applies the leaking recipe: colour and sharpness drawn per frame and H.264, for the fake alone."""
    frames = [SourceTransform().apply(frame[None], SourceTransform().sample(rng))[0] for frame in pair.fake]
    return replace(pair, fake=h264_round_trip(np.stack(frames), 30, "rgb24"))


def test_transforming_and_recompressing_only_the_fake_fails_the_audit(data: DataParams) -> None:
    rng = np.random.default_rng(0)
    measured = [
        measure_pair("control", transform_only_the_fake(pair, rng)) for pair in native_pairs(data, 48)
    ]
    usable = [pair for pair in measured if pair is not None]
    assert len(usable) >= 30
    verdicts = {v.probe: v for v in judge_probes(usable, AUDIT)}
    assert verdicts["sharpness change"].auc >= 0.95
    assert verdicts["sharpness change"].leaks
    report = AuditReport(len(usable), 0, tuple(verdicts.values()))
    with pytest.raises(DataError, match="sharpness change"):
        require_no_leak(report)


def test_recompressing_only_the_fake_fails_the_audit_too(data: DataParams) -> None:
    rng = np.random.default_rng(1)
    pairs = [
        replace(pair, fake=h264_round_trip(pair.fake, int(rng.integers(23, 41)), "rgb24"))
        for pair in native_pairs(data, 48)
    ]
    usable = [m for m in (measure_pair("control", pair) for pair in pairs) if m is not None]
    leaking = AuditReport(len(usable), 0, judge_probes(usable, AUDIT)).leaking
    assert {"noise level", "blockiness", "bitrate"} <= set(leaking)


@pytest.mark.slow
def test_the_correct_recipe_passes_on_a_quarter_of_the_pairs_per_setting(data: DataParams) -> None:
    progress: list[tuple[int, int]] = []
    report = run_audit(
        data, SbiParams(), AUDIT, n_workers=2, progress=lambda done, total: progress.append((done, total))
    )
    assert report.leaking == ()
    require_no_leak(report)
    assert report.n_pairs == 200
    assert progress[-1] == (200, 200)
    for verdict in report.verdicts:
        assert set(verdict.win_rate_by_group) == {setting.name for setting in SETTINGS}
        assert abs(verdict.auc - 0.5) < 0.02
        for setting in SETTINGS:
            if not setting.codec:  # bit-identical backgrounds: only ties
                assert verdict.win_rate_by_group[setting.name] == 0.5


def fake_candidates(usable: Callable[[int], bool]) -> Callable[..., MeasuredPair | None]:
    """Replaces drawing and measuring a pair; `usable(i)` tells whether the i-th one can be measured."""
    rng, counter = np.random.default_rng(3), itertools.count()

    def measure_candidate(params: object, candidate: tuple) -> MeasuredPair | None:
        seen_candidates.append(candidate)
        if not usable(next(counter)):
            return None
        values = tuple(rng.normal(size=len(PROBES)).tolist())
        return MeasuredPair(candidate[0].name, values, values)

    return measure_candidate


seen_candidates: list[tuple] = []


def test_pairs_are_distinct_and_equal_in_number_per_setting_and_unusable_ones_are_replaced(
    data: DataParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen_candidates.clear()
    monkeypatch.setattr(leak_audit, "_measure_candidate", fake_candidates(lambda i: i % 3 > 0))
    report = run_audit(data, SbiParams(), AuditParams(pairs=220), n_workers=0)
    assert report.n_pairs == 220
    assert report.n_replaced == len(seen_candidates) - 220
    assert report.n_replaced >= 73
    assert len(set(seen_candidates)) == len(seen_candidates)
    n_videos = len(FFPPTree(data.root).ids("train"))
    assert {index for _, _, index in seen_candidates} == set(range(n_videos))
    assert min(Counter(setting for setting, _, _ in seen_candidates).values()) >= 55


def test_too_few_usable_pairs_are_an_error(data: DataParams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leak_audit, "_measure_candidate", fake_candidates(lambda i: i % 4 == 0))
    with pytest.raises(DataError, match=r"needs 200 pairs but got 1\d\d: 4\d\d others have less than 5%"):
        run_audit(data, SbiParams(), AUDIT, n_workers=0)


def a_pair(mask: np.ndarray, real: np.ndarray, fake: np.ndarray) -> Pair:
    return Pair(real, fake, mask.astype(np.float32), Provenance("x", 0, (0, 0, 0, 0), None))


def test_nothing_within_32_px_of_the_mask_of_any_frame_is_measured() -> None:
    rng = np.random.default_rng(5)
    real = rng.integers(0, 256, (6, 120, 140, 3), np.uint8)
    mask = np.zeros((6, 120, 140))
    mask[0, 40:60, 40:60] = 1e-6
    mask[5, 50:70, 50:70] = 0.3
    region = mask.max(0) > 0
    ys, xs = np.nonzero(region)
    rows, columns = np.mgrid[:120, :140]
    distance_px = np.min([np.hypot(rows - y, columns - x) for y, x in zip(ys, xs, strict=True)], axis=0)
    fake = np.where((distance_px <= 32)[None, :, :, None], 255 - real, real)
    measured = measure_pair("g", a_pair(mask, real, fake))
    assert measured is not None
    assert measured.real == measured.fake
    far = real.copy()
    far[2, 110, 130] ^= 64
    changed = measure_pair("g", a_pair(mask, real, far))
    assert changed is not None
    assert changed.real != changed.fake


def test_a_pair_without_background_is_not_measured() -> None:
    frames = np.zeros((8, 80, 80, 3), np.uint8)
    mask = np.zeros((8, 80, 80))
    mask[:, 20:60, 20:60] = 1
    assert measure_pair("g", a_pair(mask, frames, frames)) is None


def test_the_background_starts_more_than_32_px_from_the_face() -> None:
    region = np.zeros((90, 100), bool)
    region[40, 50] = region[44, 47] = True
    ys, xs = np.mgrid[:90, :100]
    nearest = np.minimum(np.hypot(ys - 40, xs - 50), np.hypot(ys - 44, xs - 47))
    np.testing.assert_array_equal(background_of(region), nearest > MARGIN_px)
    assert background_of(np.zeros((5, 5), bool)).all()


def pairs_of(real_N: np.ndarray, fake_N: np.ndarray, group: str = "g") -> list[MeasuredPair]:
    width = len(PROBES)
    return [
        MeasuredPair(group, (float(r),) * width, (float(f),) * width)
        for r, f in zip(real_N, fake_N, strict=True)
    ]


def test_auc_and_win_rate_match_their_definitions() -> None:
    rng = np.random.default_rng(6)
    real_N, fake_N = rng.integers(0, 9, 230), rng.integers(0, 10, 230)
    verdict = judge_probes(pairs_of(real_N, fake_N), AUDIT)[0]
    labels = [0] * 230 + [1] * 230
    assert verdict.auc == pytest.approx(roc_auc_score(labels, [*real_N, *fake_N]))
    wins = sum(f > r for r, f in zip(real_N, fake_N, strict=True))
    ties = sum(f == r for r, f in zip(real_N, fake_N, strict=True))
    assert verdict.win_rate == pytest.approx((wins + ties / 2) / 230)
    assert (verdict.low, verdict.high) == wilson_interval(wins + ties / 2, 230)


@pytest.mark.parametrize(("wins", "n"), [(0, 200), (7, 200), (120, 240), (240, 240)])
def test_the_interval_is_wilsons_at_99_9_percent(wins: int, n: int) -> None:
    expected = binomtest(wins, n).proportion_ci(0.999, "wilson")
    assert wilson_interval(wins, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_identical_members_do_not_leak() -> None:
    values = np.random.default_rng(7).normal(size=200)
    verdict = judge_probes(pairs_of(values, values), AUDIT)[0]
    assert verdict.auc == pytest.approx(0.5)
    assert (verdict.win_rate, verdict.leaks) == (0.5, False)


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_tiny_difference_in_every_pair_leaks_at_an_auc_of_one_half(sign: int) -> None:
    values = np.random.default_rng(8).normal(size=200)
    verdict = judge_probes(pairs_of(values, values + sign * 1e-9), AUDIT)[0]
    assert abs(verdict.auc - 0.5) < 0.01
    assert verdict.leaks


def test_a_few_huge_differences_leak_by_auc() -> None:
    rng = np.random.default_rng(9)
    real_N = rng.normal(size=200)
    fake_N = np.where(np.arange(200) % 2, real_N + 5, real_N - 1e-9)
    verdict = judge_probes(pairs_of(real_N, fake_N), AUDIT)[0]
    assert verdict.low < 0.55
    assert verdict.auc > 0.55
    assert verdict.leaks


def test_random_differences_do_not_leak() -> None:
    rng = np.random.default_rng(10)
    base = rng.normal(size=240)
    leaks = [judge_probes(pairs_of(base, base + rng.normal(0, 1e-3, 240)), AUDIT)[0].leaks for _ in range(40)]
    assert sum(leaks) == 0


def clip_with(change: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> Background:
    rng = np.random.default_rng(11)
    still = cv2.resize(
        rng.uniform(60, 190, (12, 12, 3)).astype(np.float32), (96, 96), interpolation=cv2.INTER_CUBIC
    )
    frames = np.clip(change(np.repeat(still[None], 8, 0), rng), 0, 255).astype(np.uint8)
    region = np.zeros((96, 96), bool)
    region[44:52, 44:52] = True
    return fill_grey(frames, background_of(region))


@pytest.mark.parametrize(
    ("probe", "change"),
    [
        ("sharpness", lambda f, rng: f + rng.normal(0, 6, f.shape[1:])),
        (
            "sharpness change",
            lambda f, rng: f + rng.normal(0, 1, f.shape) * np.arange(8)[:, None, None, None],
        ),
        ("colour mean, red", lambda f, rng: f + np.array((9, 0, 0))),
        ("colour mean, green", lambda f, rng: f + np.array((0, 9, 0))),
        ("colour mean, blue", lambda f, rng: f + np.array((0, 0, 9))),
        ("colour flicker", lambda f, rng: f + 3 * (-1.0) ** np.arange(8)[:, None, None, None]),
        ("noise level", lambda f, rng: f + rng.normal(0, 4, f.shape)),
        ("HLL energy", lambda f, rng: f + 5 * (-1.0) ** np.arange(8)[:, None, None, None]),
        ("blockiness", lambda f, rng: f + 6 * (np.arange(96) // 8 % 2)[:, None]),
        ("bitrate", lambda f, rng: f + rng.normal(0, 8, f.shape)),
    ],
)
def test_each_probe_reacts_to_the_change_it_is_named_after(probe: str, change: Callable) -> None:
    plain, changed = clip_with(lambda f, rng: f), clip_with(change)
    assert PROBES[probe](changed) > PROBES[probe](plain) + 1e-6


def test_the_noise_level_is_in_grey_levels() -> None:
    grey = clip_with(lambda f, rng: np.full_like(f, 128) + rng.normal(0, 5, (*f.shape[:3], 1)))
    assert PROBES["noise level"](grey) == pytest.approx(5, rel=0.1)


def test_hll_energy_equals_pywavelets_band_without_its_end_coefficients() -> None:
    clip = clip_with(lambda f, rng: f + rng.normal(0, 8, f.shape))
    band = pywt.dwtn(clip.luma_THW.astype(np.float64), "sym2", mode="periodization")["daa"]
    assert PROBES["HLL energy"](clip) == pytest.approx(float((band[1:-1] ** 2).mean()), rel=1e-4)


def test_all_probes_of_odd_sized_clips_are_finite() -> None:
    assert len(PROBES) >= 6
    frames = np.random.default_rng(12).integers(0, 256, (7, 83, 91, 3), np.uint8)
    outside = np.zeros((83, 91), bool)
    outside[:30] = True
    assert np.isfinite(measure(frames, outside)).all()
    filled = fill_grey(frames, outside)
    assert (filled.frames_THWC[:, 30:] == GREY).all()
    assert (frames[:, 30:] != GREY).any()


def test_test_videos_are_measured_with_one_region_per_target(data: DataParams) -> None:
    videos = measure_test_videos(FFPPTree(data.root), data, 0)
    assert Counter(video.method for video in videos)[REAL] == 2
    assert len(videos) == 10
    baselines = {b.measure: b for b in compute_baselines(videos)}
    assert set(baselines) == set(MEASURES)
    assert (baselines["bitrate"].n_real, baselines["bitrate"].n_fake) == (2, 8)
    assert baselines["sharpness"].win_rate is not None
    assert set(baselines["noise level"].auc_by_method) == {
        "Deepfakes",
        "Face2Face",
        "FaceSwap",
        "NeuralTextures",
    }


def test_baselines_without_a_class_or_a_target_are_none() -> None:
    width = len(MEASURES)
    unpaired = [MeasuredVideo("a", "FaceSwap", (1.0,) * width), MeasuredVideo("b", REAL, (0.0,) * width)]
    assert compute_baselines(unpaired)[0].auc == 1.0
    assert compute_baselines(unpaired)[0].win_rate is None
    assert compute_baselines(unpaired[:1])[0].auc is None


def test_the_report_is_plain_json_with_names_that_mlflow_accepts(data: DataParams) -> None:
    values = np.random.default_rng(13).normal(size=200)
    report = AuditReport(200, 3, judge_probes(pairs_of(values, values), AUDIT))
    metrics = audit_metrics(report)
    assert (metrics["audit_passed"], metrics["audit_leaking"], metrics["audit_pairs_replaced"]) == (
        True,
        0,
        3,
    )
    assert metrics["audit_farthest_auc"] == 0.5
    assert audit_details(report, (), AUDIT)["probes"]["noise level"]["auc"] == 0.5
    assert all(key.replace(".", "").replace("_", "").isalnum() for key in tracked_audit(report))
