"""Beside the report's tests because MLflow shows the same artefacts as the report."""

import json
import shutil

import pytest
import synthetic
from mlflow import MlflowClient

from splitcodec.errors import InputError
from splitcodec.files import read_json, write_json
from splitcodec.report.table import read_points
from splitcodec.tracking import queue_of, sync, track, wanted_runs
from splitcodec.tracking_live import LiveRun

POINT = "smollm2-135m/split20/hyperprior/hyperprior λ=0.001 seed=0"
CURVE = "smollm2-135m/split20/hyperprior"
TRAINING = "codecs/smollm2-135m/split20/hyperprior/lambda0.001-seed0/training.jsonl"


class World:
    """Small results, their store, and what a person would do with them."""

    def __init__(self, directory, results, figure):
        self.directory, self.results, self.figure = directory, results, figure
        self.record = results / "mlflow-runs.json"
        self.uri = f"sqlite:///{directory}/mlflow.db"
        self.client = MlflowClient(self.uri)

    def track(self, uri=None):
        trainings = sorted(self.results.glob("codecs/*/*/*/*/training.jsonl"))
        parts = (self.results / "points.parquet", [self.figure], trainings, self.record)
        track("default", *parts, tracking_uri=uri or self.uri)

    def runs(self):
        """Active runs of the experiment by name."""
        experiment = self.client.get_experiment_by_name("default").experiment_id
        runs = self.client.search_runs([experiment])
        return {run.info.run_name: run for run in runs}

    def ids(self):
        return {name: run.info.run_id for name, run in self.runs().items()}

    def run(self, key):
        return self.client.get_run(read_json(self.record)["runs"][key])

    def change(self, **values):
        path = self.results / "evaluation/smollm2-135m/split20/hyperprior/lambda0.001-seed0.json"
        document = read_json(path)
        document["points"][0] |= values
        write_json(path, document)
        synthetic.collect_points(self.results)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A directory with results and a store that shows them, made once."""
    directory = tmp_path_factory.mktemp("tracked")
    results = synthetic.build(
        directory / "results",
        splits=(20,),
        learned=("hyperprior",),
        baselines=("int3", "int4", "int8"),
        coders=("zstd",),
    )
    synthetic.collect_points(results)
    figure = directory / "rd-smollm2-135m-split20.png"
    figure.write_bytes(b"a figure")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)  # where MLflow puts artefacts
        World(directory, results, figure).track()
    return directory


@pytest.fixture
def world(tracked, tmp_path, monkeypatch):
    """A copy of `tracked` that a test may spoil; its record knows the copied store."""
    shutil.copytree(tracked, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    world = World(tmp_path, tmp_path / "results", tmp_path / "rd-smollm2-135m-split20.png")
    write_json(world.record, read_json(world.record) | {"tracking_uri": world.uri})
    return world


def test_a_parent_a_curve_and_a_child_a_point(world):
    runs = world.runs()
    assert set(runs) == {
        "split20/hyperprior",
        *(f"split20/hyperprior λ={value}" for value in ("0.0001", "0.0003", "0.001", "0.003")),
        "split20/int + zstd",
        *(f"split20/{codec} + zstd" for codec in ("int3", "int4", "int8")),
    }
    parent = runs["split20/hyperprior"].info.run_id
    child = runs["split20/hyperprior λ=0.001"]
    assert child.data.tags["mlflow.parentRunId"] == parent
    assert "mlflow.parentRunId" not in runs["split20/hyperprior"].data.tags
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert len(read_json(world.record)["runs"]) == len(runs)


def test_a_child_holds_its_row_of_the_table(world):
    run = world.run(POINT)
    points = read_points(world.results / "points.parquet")
    (row,) = points[points["lambda"] == 0.001].to_dict("records")
    for name in ("bits_per_token_file", "perplexity", "kl", "decode_ms_per_token", "train_seconds"):
        assert run.data.metrics[name] == row[name]
    assert run.data.metrics["perplexity_increase_percent"] == pytest.approx(12.52, abs=0.01)
    for name in ("codec_hash", "data_hash", "git_commit", "hardware"):
        assert run.data.tags[name] == row[name]
    expected = {"codec": "hyperprior", "split": "20", "lambda": "0.001", "codec.width": "96"}
    assert expected.items() <= run.data.params.items()
    assert "441.0 bits per token" in run.data.tags["mlflow.note.content"]
    assert run.info.end_time - run.info.start_time == 71_500


def test_training_is_a_history_by_step(world):
    run_id = world.run(POINT).info.run_id
    fit = world.client.get_metric_history(run_id, "training/fit_bits_per_token")
    polish = world.client.get_metric_history(run_id, "training/polish_loss")
    assert [metric.step for metric in fit] == list(range(0, 120, 10))
    assert [metric.step for metric in polish] == [120, 130, 140]


def test_a_parent_shows_its_best_point_and_the_figure(world):
    run = world.run(CURVE)
    assert run.data.metrics["bits_per_token_file"] == 752  # the cheapest within +5 %
    assert run.data.metrics["rate_ratio_to_int4_zstd"] == pytest.approx(0.352, abs=0.001)
    assert run.data.metrics["bd_rate_percent_vs_int_zstd"] < -60
    (figure,) = world.client.list_artifacts(run.info.run_id, "figures")
    assert figure.path == "figures/rd-smollm2-135m-split20.png"


def test_the_runs_page_opens_on_a_saved_view(world):
    tags = world.client.get_experiment_by_name("default").tags
    assert "mlflow.sharedViewState.curves" in tags
    assert "mlflow.sharedViewState.smollm2-135m-split20" in tags
    assert "viewStateShareKey=curves" in read_json(world.record)["page"]
    assert read_json(world.record)["command"].startswith("mlflow ui --backend-store-uri sqlite:///")


def test_again_changes_nothing(world):
    before, ids = world.runs(), world.ids()
    world.track()
    assert world.ids() == ids
    assert {n: r.info.end_time for n, r in world.runs().items()} == {
        n: r.info.end_time for n, r in before.items()
    }
    history = world.client.get_metric_history(ids["split20/int4 + zstd"], "kl")
    assert len(history) == 1


def test_a_changed_point_updates_its_run(world):
    ids = world.ids()
    world.change(bits_per_token_file=433.0)
    world.track()
    assert world.ids() == ids
    assert world.run(POINT).data.metrics["bits_per_token_file"] == 433


def test_another_training_replaces_its_run(world):
    ids = world.ids()
    path = world.results / TRAINING
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    world.track()
    changed = {name for name, run_id in world.ids().items() if run_id != ids[name]}
    assert changed == {"split20/hyperprior λ=0.001"}
    run_id = world.run(POINT).info.run_id
    assert len(world.client.get_metric_history(run_id, "training/fit_loss")) == 3


def test_a_point_that_is_gone_loses_its_run(world):
    for kind in ("evaluation", "codecs"):
        place = world.results / kind / "smollm2-135m/split20/hyperprior/lambda0.001-seed0"
        shutil.rmtree(place) if place.is_dir() else place.with_name(f"{place.name}.json").unlink()
    synthetic.collect_points(world.results)
    world.track()
    assert "split20/hyperprior λ=0.001" not in world.runs()
    assert len(world.runs()) == 8


def test_deleted_runs_are_made_again(world):
    ids = world.ids()
    for key in (CURVE, POINT):
        world.client.delete_run(read_json(world.record)["runs"][key])
    world.track()
    assert world.ids().keys() == ids.keys()
    parent = world.run(CURVE).info.run_id
    children = [r for n, r in world.runs().items() if n.startswith("split20/hyperprior λ")]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent}


def test_a_deleted_experiment_is_restored(world):
    world.client.delete_experiment(world.client.get_experiment_by_name("default").experiment_id)
    world.track()
    assert len(world.runs()) == 9


def test_a_lost_record_or_a_kill_makes_no_second_runs(world):
    """Snakemake deletes the record before a rerun; a kill leaves runs that no record names."""
    world.track()  # the copy lies elsewhere than what it was copied from
    killed = world.run(POINT).info.run_id
    world.client.delete_tag(killed, "splitcodec.digest")
    ids = world.ids()
    world.record.unlink()
    world.track()
    assert world.ids() == ids
    assert "splitcodec.digest" in world.client.get_run(killed).data.tags


def test_another_directory_has_runs_of_its_own(world):
    shutil.copytree(world.results, world.directory / "other")
    other = World(world.directory, world.directory / "other", world.figure)
    other.record.unlink()
    other.track()
    records = [set(read_json(w.record)["runs"].values()) for w in (world, other)]
    assert records[0].isdisjoint(records[1])
    experiment = world.client.get_experiment_by_name("default").experiment_id
    assert len(world.client.search_runs([experiment])) == 18


def test_the_store_comes_from_the_environment(world, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", world.uri)
    ids = world.ids()
    parts = (world.results / "points.parquet", [world.figure])
    trainings = sorted(world.results.glob("codecs/*/*/*/*/training.jsonl"))
    track("default", *parts, trainings, world.record)
    assert world.ids() == ids


@pytest.mark.parametrize(
    "uri, said",
    [
        ("sqlite:///{}/notes.txt", "notes.txt"),
        ("http://127.0.0.1:9", "http://127.0.0.1:9"),
        ("nonsense://store", "nonsense://store"),
        ("postgresql+nodriver://me:secret@127.0.0.1/x", "me:***@"),
    ],
)
def test_an_unusable_store_gives_one_clear_line(world, monkeypatch, uri, said):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (world.directory / "notes.txt").write_text("not a database " * 100)
    before = world.record.read_bytes()
    with pytest.raises(InputError) as error:
        world.track(uri.format(world.directory))
    assert said in str(error.value)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)
    assert world.record.read_bytes() == before


def test_damaged_training_gives_one_clear_line(world):
    (world.results / TRAINING).write_text('{"phase": "fit", "st')
    with pytest.raises(InputError, match=r"training\.jsonl is damaged"):
        world.track()


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
    from splitcodec.tracking import _decimal

    assert [_decimal(value) for value in (3e-5, 0.001, 1.0, 20.0)] == [
        "0.00003",
        "0.001",
        "1",
        "20",
    ]


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
    parts = (fresh / "points.parquet", [world.figure], [fresh / TRAINING])
    for _ in range(2):
        track("live", *parts, fresh / "mlflow-runs.json", world.uri)
        assert read_json(fresh / "mlflow-runs.json")["runs"][POINT] == run.info.run_id
        assert losses(world, run.info.run_id) == [(0, 5.0), (1, 4.0), (2, 3.0)]
    shown = world.client.get_run(run.info.run_id)
    assert shown.data.metrics["bits_per_token_file"] > 0
    assert shown.data.params["lambda"] == "0.001"


def test_another_training_gets_another_run(world, fresh):
    LiveRun(LIVE, fresh, world.uri)(ENTRIES[0])
    parts = (fresh / "points.parquet", [world.figure], [fresh / TRAINING])
    track("live", *parts, fresh / "mlflow-runs.json", world.uri)
    before = read_json(fresh / "mlflow-runs.json")["runs"][POINT]
    LiveRun(LIVE, fresh, world.uri)(ENTRIES[0])
    track("live", *parts, fresh / "mlflow-runs.json", world.uri)
    assert read_json(fresh / "mlflow-runs.json")["runs"][POINT] != before


def test_training_goes_on_without_a_store(world, fresh, capsys):
    live = LiveRun(LIVE, fresh, "nonsense://store")
    for entry in ENTRIES:
        live(entry)
    assert capsys.readouterr().err.count("MLflow does not show this training") == 1


def test_what_the_store_missed_is_sent_later_and_once(world, fresh, monkeypatch):
    monkeypatch.setattr("splitcodec.tracking_live.RETRY_SECONDS", 0.0)
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


def test_a_run_is_done_without_mlflow_and_shown_later(world, fresh, capsys):
    sync(fresh, "nonsense://store", later=True)
    assert "splitcodec track sync" in capsys.readouterr().out
    sync(fresh, world.uri)
    assert len(read_json(fresh / "mlflow-runs.json")["runs"]) == 9


def test_the_data_are_logged_by_hash(world):
    run = world.run(POINT)
    (given,) = run.inputs.dataset_inputs
    assert given.dataset.digest == run.data.tags["data_hash"][:36]
