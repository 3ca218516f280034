"""From distances to scores."""

from __future__ import annotations

from anomscan.extractor import Features


def knn_score(distances: Features) -> Features:
    """Sum of the distances from each query to its k nearest normals.

    Larger is more anomalous. With L2-normalised features the unit is cosine distance, 1 - cos, in
    [0, 2] per neighbour (DN2; Mean-Shifted Contrastive, eq. 5).

    Args:
        distances: (n, k) float32, ascending in each row, each >= 0.

    Returns:
        (n,) float32, >= 0.
    """
    scores: Features = distances.sum(axis=1)
    return scores
