"""The engine: a spec is built into a run, which is trained epoch by epoch."""
