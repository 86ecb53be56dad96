"""Statistics: intervals, tests and corrections, of numbers alone."""
