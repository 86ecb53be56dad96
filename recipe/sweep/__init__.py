"""Many runs from one command line, gathered under one parent run.

A sweep has a folder, `<outputs>/sweeps/<sweep id>/`: `sweep.json` says what it is called and
which overrides differ from job to job, `jobs.jsonl` gets a line for each job that ended.
"""
