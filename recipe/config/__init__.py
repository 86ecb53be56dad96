"""Option files and overrides, composed and checked into a run spec."""
