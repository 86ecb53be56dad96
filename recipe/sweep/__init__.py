"""Many runs from one command line, gathered under one parent run.

A sweep has a folder, `<outputs>/sweeps/<sweep id>/`: `sweep.json` says what it is called, what was
typed (`command`) and the overrides that differ from job to job (`planned`, in the order of the
jobs); `jobs.jsonl` gets a line for each job that ended. An ablation's sweep.json has its `plan`,
`tricks` and `seeds`, the name of each job's variant (`variants`) and the overrides that all jobs
share (`fixed`). Sweeps that older versions ran with `plan=greedy` also have its `path` and why it
ended (`stopped`).
"""
