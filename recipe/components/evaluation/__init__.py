"""Evaluation: called as `evaluation(model, inputs, **settings) -> output` for each batch.

Replaces `model(inputs)` in evaluation and prediction, but not in training. `model` is in eval mode;
inputs (batch, channels, height, width), normalised; output: logits (batch, classes). It must not
draw random numbers.
"""
