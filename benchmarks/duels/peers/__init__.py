"""The same job by each peer: `python -m duels.peers.<peer> JOB [lean]`.

As its documentation has it; `lean` without what those who know it switch off. Loss and accuracy of
every step are kept, and every epoch is evaluated.
"""
