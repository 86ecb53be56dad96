"""Many runs from one command line, with one parent run.

A sweep has a folder, `<outputs>/sweeps/<sweep id>/`: `sweep.json` has its name, its command line
(`command`) and the overrides that differ between jobs (`planned`, in the order of the jobs);
`jobs.jsonl` has a line for each job that ended. An ablation's sweep.json also has its `plan`,
`tricks` and `seeds`, the variant of each job (`variants`) and the overrides that all jobs share
(`fixed`). Sweeps of older versions with `plan=greedy` also have its `path` and why it `stopped`.
"""
