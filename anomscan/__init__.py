"""Rank the images of a folder by how anomalous they are, after looking at a folder of normal ones."""

__version__ = "0.5.0"

DEFAULT_BACKBONE = "tf_efficientnet_lite0"
"""The backbone whose weights are installed with anomscan."""
