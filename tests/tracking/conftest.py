"""Small results, an MLflow store that shows them, and what a person would do with both."""

import shutil

import pytest
import synthetic
from mlflow import MlflowClient

from splitcodec.files import read_json, write_json
from splitcodec.tracking.experiment import sync


class World:
    """Small results, their store, and what a person would do with them."""

    def __init__(self, directory, results):
        self.directory, self.results = directory, results
        self.record = results / "mlflow-runs.json"
        self.uri = f"sqlite:///{directory}/mlflow.db"
        self.client = MlflowClient(self.uri)

    def track(self, uri=None):
        sync(self.results, uri or self.uri)

    def runs(self):
        """Active runs of the experiment by name."""
        experiment = self.client.get_experiment_by_name("default").experiment_id
        runs = self.client.search_runs([experiment])
        return {run.info.run_name: run for run in runs}

    def ids(self):
        return {name: run.info.run_id for name, run in self.runs().items()}

    def run(self, key):
        return self.client.get_run(read_json(self.record)["runs"][key])

    def change(self, variant="lambda0.001-seed0", **values):
        path = self.results / f"evaluation/smollm2-135m/split20/hyperprior/{variant}.json"
        document = read_json(path)
        document["points"][0] |= values
        write_json(path, document)
        synthetic.collect_points(self.results)


@pytest.fixture(scope="session")
def tracked(tmp_path_factory):
    """A directory with results and a store that shows them, made once."""
    directory = tmp_path_factory.mktemp("tracked")
    results = synthetic.build(
        directory / "default",
        splits=(20,),
        learned=("hyperprior",),
        baselines=("int3", "int4", "int8"),
        coders=("zstd",),
    )
    synthetic.collect_points(results)
    figure = results / "figures/rd-smollm2-135m-split20.png"
    figure.parent.mkdir()
    figure.write_bytes(b"a figure")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)  # where MLflow puts artefacts
        World(directory, results).track()
    return directory


@pytest.fixture
def world(tracked, tmp_path, monkeypatch):
    """A copy of `tracked` that a test may spoil; its record knows the copied store."""
    shutil.copytree(tracked, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    world = World(tmp_path, tmp_path / "default")
    write_json(world.record, read_json(world.record) | {"tracking_uri": world.uri})
    return world
