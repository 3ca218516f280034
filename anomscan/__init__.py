"""Rank the images of a folder by how anomalous they are, after looking at a folder of normal ones."""

__version__ = "0.1.0"
