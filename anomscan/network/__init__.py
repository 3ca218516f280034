"""Run an exported network."""
