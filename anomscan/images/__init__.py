"""Find images and bring them to the size of a network."""
