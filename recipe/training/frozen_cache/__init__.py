"""Computes the leading frozen layers of a model once, and reads their outputs in later epochs.

The prefix of a model is what depends only on the inputs, frozen parameters and constants. It is
found in a traced graph (`trace`, `node_analysis`, `split_model`); its outputs for all training and
validation samples are stored (`subset`, `tensor_layout`, `cache_file`, `eviction`) under a key of
all that could change them (`key`). An epoch then reads these and computes only the rest of the
model (`inputs`). The cache is used only if a batch gives bit-identical results with it (`verify`);
otherwise the reason is reported (`frozen_cache`).
"""


class NotCacheable(Exception):
    """The reason why the outputs of frozen layers are not cached."""
