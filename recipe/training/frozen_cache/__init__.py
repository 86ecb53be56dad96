"""The frozen prefix: the leading part of a model that gives the same numbers each time, done once.

What depends on nothing but the input, frozen parameters and constants is found in any model
(`traced`, `observed`, `split`), its outputs are kept for every training and validation sample
(`layout`, `store`, `room`) under a key of all that could change them (`key`), and an epoch then
reads those and calls only the rest of the model (`feed`). It is used only where a batch came out
bit for bit as it does the plain way (`verify`); where it can't be, the reason is said (`prefix`).
Results are the same bits either way.
"""
