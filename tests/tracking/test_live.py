import json
import shutil
import time

import pytest

from splitcodec.files import read_json
from splitcodec.tracking.experiment import sync
from splitcodec.tracking.live import LiveRun, queue_of

POINT = "smollm2-135m/split20/hyperprior/hyperprior λ=0.001 seed=0"
TRAINING = "codecs/smollm2-135m/split20/hyperprior/lambda0.001-seed0/training.jsonl"
LIVE = {"model": "smollm2-135m", "split": 20, "codec": "hyperprior", "coder": "ans"}
LIVE |= {"lambda": 0.001, "seed": 0}
ENTRIES = [{"phase": "fit", "step": step, "loss": 5.0 - step} for step in range(3)]


@pytest.fixture
def fresh(world):
    """The same results as a new experiment of which the store knows nothing."""
    results = world.directory / "live"
    shutil.copytree(world.results, results)
    (results / "mlflow-runs.json").unlink()
    path = results / TRAINING
    path.write_text("".join(json.dumps(entry) + "\n" for entry in ENTRIES))
    return results


def losses(world, run_id):
    history = world.client.get_metric_history(run_id, "training/fit_loss")
    return [(metric.step, metric.value) for metric in history]


def test_a_training_is_shown_as_it_goes_and_tracking_continues_its_run(world, fresh):
    live = LiveRun(LIVE, fresh, world.uri)
    for entry in ENTRIES[:2]:
        live(entry)
    experiment = world.client.get_experiment_by_name("live").experiment_id
    (run,) = world.client.search_runs([experiment])
    assert losses(world, run.info.run_id) == [(0, 5.0), (1, 4.0)]
    LiveRun(LIVE, fresh, world.uri)(ENTRIES[2])  # after a kill
    for _ in range(2):
        sync(fresh, world.uri)
        assert read_json(fresh / "mlflow-runs.json")["runs"][POINT] == run.info.run_id
        assert losses(world, run.info.run_id) == [(0, 5.0), (1, 4.0), (2, 3.0)]
    shown = world.client.get_run(run.info.run_id)
    assert shown.data.metrics["bits_per_token_file"] > 0
    assert shown.data.params["lambda"] == "0.001"


def test_another_training_gets_another_run(world, fresh):
    LiveRun(LIVE, fresh, world.uri)(ENTRIES[0])
    sync(fresh, world.uri)
    before = read_json(fresh / "mlflow-runs.json")["runs"][POINT]
    LiveRun(LIVE, fresh, world.uri)(ENTRIES[0])
    sync(fresh, world.uri)
    assert read_json(fresh / "mlflow-runs.json")["runs"][POINT] != before


@pytest.mark.parametrize("uri", ["nonsense://store", "nonsense://me:secret@store"])
def test_training_goes_on_without_a_store(fresh, capsys, uri):
    live = LiveRun(LIVE, fresh, uri)
    for entry in ENTRIES:
        live(entry)
    told = capsys.readouterr().err
    assert told.count("MLflow does not show this training") == 1
    assert "secret" not in told


def test_what_the_store_missed_is_sent_later_and_once(world, fresh, monkeypatch):
    monkeypatch.setattr("splitcodec.tracking.live.RETRY_SECONDS", 0.0)
    live = LiveRun(LIVE, fresh, "nonsense://store")
    live(ENTRIES[0])
    assert len(queue_of(fresh, POINT).read_text().splitlines()) == 1
    resumed = LiveRun(LIVE, fresh, world.uri)  # after a kill; the store is back
    for entry in ENTRIES[:2]:
        resumed(entry)
    experiment = world.client.get_experiment_by_name("live").experiment_id
    (run,) = world.client.search_runs([experiment])
    assert losses(world, run.info.run_id) == [(0, 5.0), (1, 4.0)]
    for _ in range(2):
        sync(fresh, world.uri)  # the last entry never came to the store
        assert losses(world, run.info.run_id) == [(0, 5.0), (1, 4.0), (2, 3.0)]
    assert not queue_of(fresh, POINT).exists()


def test_a_live_run_shows_the_load_of_the_machine(world, fresh, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    with LiveRun(LIVE, fresh, world.uri) as live:
        live(ENTRIES[0])
        time.sleep(1)
    experiment = world.client.get_experiment_by_name("live").experiment_id
    (run,) = world.client.search_runs([experiment])
    assert run.data.metrics["system/cpu_utilization_percentage"] >= 0
    sync(fresh, world.uri)
    shown = world.client.get_run(run.info.run_id).data.metrics
    assert shown["system/system_memory_usage_megabytes"] > 0
    assert shown["bits_per_token_file"] > 0
