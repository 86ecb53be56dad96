"""Evaluation: called as `evaluation(model, inputs, **settings) -> output` for every batch.

In place of `model(inputs)`, in evaluation and in prediction alike; `model` is in eval mode,
`inputs` (batch, channels, height, width), normalised; the output is what the model gives, logits
(batch, classes). No random numbers may be drawn. Training isn't changed by it.
"""
