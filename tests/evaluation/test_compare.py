"""Two score tables joined video by video."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from stf.errors import DataError
from stf.evaluation.compare import compare_groups, pair_scores
from tests.reference.comparison_sets import score_table


def test_only_videos_that_both_scored_count_and_the_others_are_reported():
    a, b = score_table(0.5, seed=1), score_table(0.5, seed=2)
    a = a[a["video_id"] != "000_001"]  # one fake of each method
    b = b[b["method"] != "FaceSwap"].copy()
    b.loc[b["video_id"] == "002", "score"] = np.nan
    pairing = pair_scores(a, b.sample(frac=1, random_state=0))  # the order in the file is nothing
    assert len(pairing.table) == 15 + 3 * 15
    assert pairing.left_out[("c23", "real")] == {"no score": 1}
    assert pairing.left_out[("c23", "FaceSwap")] == {"only in A": 15}
    assert pairing.left_out[("c23", "Deepfakes")] == {"only in B": 1}
    groups = compare_groups(pairing, "c23")
    assert list(groups) == ["Deepfakes", "Face2Face", "NeuralTextures", "overall"]
    assert (groups["overall"].n_real, groups["overall"].n_fake) == (15, 45)
    assert (groups["Deepfakes"].n_real, groups["Deepfakes"].n_fake) == (15, 15)


def test_groups_pool_a_methods_fakes_with_all_reals_and_agree_with_scikit_learn():
    a, b = score_table(0.2, seed=1), score_table(1.5, seed=2)
    groups = compare_groups(pair_scores(a, b), "c23")
    for name, group in groups.items():
        rows = [
            table if name == "overall" else table[table["method"].isin(["real", name])] for table in (a, b)
        ]
        aucs = [roc_auc_score(r["label"], r["score"]) for r in rows]
        assert (group.delong.auc_a, group.delong.auc_b) == pytest.approx(aucs)
        assert group.bootstrap.difference == pytest.approx(group.delong.difference)
        assert group.bootstrap.n_clusters == 8


def test_a_method_without_reals_beside_it_is_not_available():
    a, b = score_table(0.5, seed=1), score_table(0.5, seed=2)
    b.loc[b["method"] == "real", "score"] = np.nan
    groups = compare_groups(pair_scores(a, b), "c23")
    assert groups["Deepfakes"].delong is None
    assert groups["Deepfakes"].bootstrap is None
    assert groups["Deepfakes"].n_real == 0


@pytest.mark.parametrize("column", ["label", "identity_pair"])
def test_tables_that_disagree_about_a_video_are_refused(column):
    a, b = score_table(0.5, seed=1), score_table(0.5, seed=2)
    b.loc[b["video_id"] == "001", column] = 1 if column == "label" else "x+y"
    with pytest.raises(DataError, match=f"c23/real/001: another {column}"):
        pair_scores(a, b)


def test_tables_of_different_videos_are_refused():
    a, b = score_table(0.5), score_table(0.5)
    with pytest.raises(DataError, match="share no video"):
        pair_scores(a, b.assign(quality="raw"))
    with pytest.raises(DataError, match="share no video"):
        pair_scores(a, pd.DataFrame(b.iloc[:0]))
