import numpy as np

from anomscan.scorers import knn_score


def test_the_score_is_the_sum_of_the_distances() -> None:
    distances = np.array([[0.0, 0.25], [0.5, 1.0]], np.float32)
    assert knn_score(distances).tolist() == [0.25, 1.5]
