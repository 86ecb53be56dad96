"""An ablation: which variants it compares, and how its jobs are planned."""
