"""Checks during training that each trick has the effect that it states."""
