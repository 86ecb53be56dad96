"""Helpers for torch modules and tensors that know no spec."""
