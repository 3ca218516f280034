"""What a run is written as: rows, a summary, a page."""
