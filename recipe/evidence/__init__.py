"""Statistics of paired runs: plain numbers in, plain numbers out.

Of scipy only `scipy.special` is used: importing `scipy.stats` or statsmodels takes a second, and
`scipy.stats.permutation_test` enumerates all 2^n sign assignments, which is not feasible for the
40 pairs that the exact test here supports.
"""
