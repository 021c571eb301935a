import synthetic

from splitcodec.report.table import read_points
from splitcodec.tracking.wanted import point_name, wanted_runs


def test_names_tell_seeds_and_models_apart_where_there_are_several(tmp_path):
    results = synthetic.build(tmp_path, splits=(20,), seeds=(0, 1), baselines=("int4",))
    points = read_points(synthetic.collect_points(results))
    names = [run.name for run in wanted_runs(points, [], [])]
    assert "split20/klt λ=0.0003 seed=1" in names
    assert len(names) == len(set(names))
    other = points.assign(model="gpt2")
    both = wanted_runs(points._append(other, ignore_index=True), [], [])
    assert {run.name.split("/")[0] for run in both} == {"gpt2", "smollm2-135m"}


def test_small_lambdas_sort_as_numbers():
    names = [point_name({"codec": "klt", "lambda": value}) for value in (3e-5, 0.001, 1.0, 20.0)]
    assert names == ["klt λ=0.00003", "klt λ=0.001", "klt λ=1", "klt λ=20"]
