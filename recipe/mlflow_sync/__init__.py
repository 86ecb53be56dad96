"""The record of runs and sweeps, sent to MLflow."""
