"""The folders and files of recorded runs and sweeps."""
