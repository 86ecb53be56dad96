"""Model: called once as `model(**settings) -> torch.nn.Module`.

Inputs: (batch, channels, height, width); output: logits (batch, classes). Initial weights are drawn
from torch's global random stream, which the engine seeds. Settings named `channels`, `classes` and
`size` that are `auto` are taken from the data. The setting `weights` is read by the engine: null, a
file (.safetensors, or a state_dict) or a recorded run.

`@pretrained_weights(model)` (recipe.components.contract) registers `function(weights, **settings)`,
which returns the weights that the model's library publishes under that name
(recipe.components.model.library_weights.LibraryWeights), or None. It is called if `model.weights`
is not a file, before recorded runs are searched; settings may still be `auto`.
`@adapt_weights(model)` registers `function(weights, **settings)`, which returns the weights of a
file under the names of the model's parameters.
"""
