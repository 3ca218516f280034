"""Files that appear whole or not at all, locks, and where files are."""
