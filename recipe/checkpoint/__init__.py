"""The state of a run, its files, and its transfer to a run with other settings."""
