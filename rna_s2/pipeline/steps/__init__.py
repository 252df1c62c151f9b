"""The steps that make one file of another: each is one function, and one that finds its output where it was made before.

The first (``run_prune``) writes where its options say and is what the command of its name calls. The second
(``pruned_table``) names the output by all that decides it (:class:`rna_s2.pipeline.steps.outputs.CachedStep`) and calls the
first where it is not there yet; commands that need the output of other steps call it.
"""
