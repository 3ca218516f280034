"""What scores mean: p-values, decisions, drift, measures. No images here, only numbers."""
