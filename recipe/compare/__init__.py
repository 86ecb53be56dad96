"""Which trick helped: what was recorded, compared; as a report."""
