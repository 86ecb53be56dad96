"""Model: called once as `model(**settings) -> torch.nn.Module`.

Takes inputs (batch, channels, height, width), gives logits (batch, classes). Initial weights
are drawn from torch's global stream, which the engine seeds. Settings named `channels`,
`classes` and `size` that are `auto` get what the data turned out to have. One setting is the
engine's own: `weights`, none, a file (.safetensors, or a state_dict) or a recorded run.

Beside a part `name` may stand `weights_name(weights, **settings)` in its module: what its library
has under that name (recipe.components.model.library_weights.Offered), or None. It is asked for `model.weights` that is
no file, before recorded runs are; settings that are `auto` may still be so.
"""
