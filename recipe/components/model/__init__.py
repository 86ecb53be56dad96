"""Model: called once as `model(**settings) -> torch.nn.Module`.

Takes inputs (batch, channels, height, width), gives logits (batch, classes). Initial weights
are drawn from torch's global stream, which the engine seeds. Settings named `channels`,
`classes` and `size` that are `auto` get what the data turned out to have. One setting is the
engine's own: `weights`, none, a file (.safetensors, or a state_dict) or a recorded run.

`@pretrained_weights(model)` (recipe.components.contract) registers `function(weights, **settings)`:
what the model's library publishes under that name
(recipe.components.model.library_weights.LibraryWeights), or None. It is called for `model.weights`
that is not a file, before recorded runs are searched; settings that are `auto` may still be so.
`@adapt_weights(model)` registers `function(weights, **settings)`: the weights of a file under the
names of the model's parameters.
"""
