"""What the rules of the workflow ask, of the plan and of Snakemake: what jobs read and take, which runs one job makes,
which results there are.

Methods take wildcards where a rule hands them over as they are, so that a rule reads as a sentence.
"""
