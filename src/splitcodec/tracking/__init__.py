"""MLflow as a view of the artefacts: what the table of points says, browsable and comparable.

One experiment; a parent run a curve (model, split, codec), a child run a point; a registered model
a split, with a version for each Pareto-best point. Nothing is computed here that is not in the
artefacts, so the store may be deleted at any time and made again. All carries the key of what it
shows and a digest of what was written, so a rerun, even after a kill, continues what is there:
unchanged parts are left alone, changed ones updated, vanished ones deleted.
"""
