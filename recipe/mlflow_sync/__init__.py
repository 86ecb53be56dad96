"""Sends the record of runs and sweeps to MLflow."""
