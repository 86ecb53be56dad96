"""What `benchmarks/duel.py` measures, a table a file, and the programs that recipe is measured
against: `plain.py` and `template.py` as people write them, `peers/` as the peers' documentation
has it.
"""
