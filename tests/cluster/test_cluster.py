from pathlib import Path

import pytest
import yaml

from splitcodec.cluster import Cluster, load_cluster
from splitcodec.errors import SettingsError

COMMITTED = Path(__file__).parents[2] / "workflow/profiles/slurm/cluster.yaml"


@pytest.fixture
def changed(tmp_path):
    """A function that writes the committed file with changes and returns its path."""

    def write(phases=None, **values):
        cluster = yaml.safe_load(COMMITTED.read_text()) | values
        for name, change in (phases or {}).items():
            cluster["phases"][name] = cluster["phases"].get(name, {}) | change
        path = tmp_path / "cluster.yaml"
        path.write_text(yaml.safe_dump(cluster))
        return path

    return write


def test_memory_doubles_and_time_grows_with_every_attempt():
    cluster = load_cluster(COMMITTED)
    first, third = (cluster.resources("train", attempt) for attempt in (1, 3))
    assert third["mem_mb"] == 4 * first["mem_mb"]
    assert third["runtime"] == 3 * first["runtime"]
    assert first["gpu"] == 1


def test_jobs_without_gpus_go_to_their_partition(changed):
    names = {"partitions": {"cpu": "short", "gpu": "a100"}, "account": "me"}
    cluster = load_cluster(changed(**names))
    assert cluster.resources("encode", 1)["slurm_partition"] == "short"
    assert cluster.resources("train", 1)["slurm_partition"] == "a100"
    assert cluster.resources("train", 1)["slurm_account"] == "me"
    assert "gpu" not in cluster.resources("encode", 1)


def test_a_shared_training_has_a_process_for_every_gpu(changed):
    cluster = load_cluster(changed(phases={"tune": {"gpus": 4, "nodes": 2}}))
    shared = cluster.resources("tune", 1)
    assert {"nodes": 2, "processes": 4, "gres": "gpu:4", "tasks": 2}.items() <= shared.items()
    assert cluster.resources("train", 1)["processes"] == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"acount": "me"}, "acount: unknown key"),
        ({"phases": {"train": {"memory": 0}}}, "phases.train.memory"),
        ({"phases": {"trian": {"cpus": 1}}}, "phases.trian"),
        ({"phases": {"train": {"gpus": 2}}}, "only tune can be shared"),
        ({"phases": {"tune": {"gpus": 1, "processes": 2}}}, "more processes than gpus"),
    ],
)
def test_mistakes_are_named(changed, change, said):
    with pytest.raises(SettingsError, match=said):
        load_cluster(changed(**change))


def test_a_missing_phase_or_file_is_named(changed, tmp_path):
    path = changed()
    cluster = yaml.safe_load(path.read_text())
    del cluster["phases"]["bounds"]
    path.write_text(yaml.safe_dump(cluster))
    with pytest.raises(SettingsError, match="lacks bounds"):
        load_cluster(path)
    with pytest.raises(SettingsError, match="No such file"):
        load_cluster(tmp_path / "none.yaml")


def test_every_phase_of_the_committed_file_can_be_asked_for():
    cluster = load_cluster(COMMITTED)
    for phase in Cluster.model_fields["phases"].annotation.__args__[0].__args__:
        assert cluster.resources(phase, 1)["cpus_per_task"] >= 1
