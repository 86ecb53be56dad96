"""Model: called once as `model(**settings) -> torch.nn.Module`.

Takes inputs (batch, channels, height, width), gives logits (batch, classes). Initial weights
are drawn from torch's global stream, which the engine seeds. Settings named `channels`,
`classes` and `size` that are `auto` get what the data turned out to have. One setting is the
engine's own: `weights`, none, a file (.safetensors, or a state_dict) or a recorded run.
"""
