"""From a folder of normal images to a model folder."""
