"""The command line: one module for each verb that needs more than a call."""
