import json
import shutil

import pytest
import synthetic
from rich.console import Console

from splitcodec.errors import InputError
from splitcodec.files import read_json
from splitcodec.report.summary import print_summary
from splitcodec.report.table import read_points, write_points
from splitcodec.tracking.experiment import sync

POINT = "smollm2-135m/split20/hyperprior/hyperprior λ=0.001 seed=0"
CURVE = "smollm2-135m/split20/hyperprior"
TRAINING = "codecs/smollm2-135m/split20/hyperprior/lambda0.001-seed0/training.jsonl"


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


def test_the_runs_page_opens_on_charts_of_the_last_split(world):
    tags = world.client.get_experiment_by_name("default").tags
    assert "mlflow.sharedViewState.curves" in tags
    assert "mlflow.sharedViewState.smollm2-135m-split20" in tags
    page = read_json(world.record)["page"]
    assert "viewStateShareKey=smollm2-135m-split20" in page
    assert page.endswith("&compareRunsMode=CHART")
    assert read_json(world.record)["command"].startswith("mlflow ui --backend-store-uri sqlite:///")


def test_a_view_of_a_split_has_scatters_and_parallel_coordinates_of_our_metrics(world):
    tags = world.client.get_experiment_by_name("default").tags
    state = json.loads(json.loads(tags["mlflow.sharedViewState.smollm2-135m-split20"])["state"])
    charts = state["compareRunCharts"]
    assert [chart["type"] for chart in charts] == ["SCATTER"] * 4 + ["PARALLEL"]
    shown = {chart["yaxis"]["key"] for chart in charts[:4]} | set(charts[4]["selectedMetrics"])
    assert shown <= world.run(POINT).data.metrics.keys()


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


def test_a_figure_that_is_gone_is_not_shown(world):
    ids = world.ids()
    for kind, name in (("evaluation", "fixed.json"), ("codecs", "fixed")):
        for codec in ("int3", "int4", "int8"):
            place = world.results / kind / "smollm2-135m/split20" / codec / name
            shutil.rmtree(place) if place.is_dir() else place.unlink()
    synthetic.collect_points(world.results)
    world.track()
    (curve,) = (run for name, run in world.runs().items() if name == "split20/hyperprior")
    assert curve.info.run_id != ids["split20/hyperprior"]
    assert "bd_rate_percent_vs_int_zstd" not in curve.data.metrics
    assert "bits_per_token_file" in curve.data.metrics
    assert world.run(POINT).info.run_id == ids["split20/hyperprior λ=0.001"]


def test_accuracies_of_tasks_are_shown(world):
    points = read_points(world.results / "points.parquet").assign(task_mine_accuracy=0.25)
    write_points(points, world.results / "points.csv", world.results / "points.parquet")
    world.track()
    assert world.run(POINT).data.metrics["task_mine_accuracy"] == 0.25


def test_charts_of_image_models_are_over_bits_a_picture(world):
    synthetic.make_pictures(world.results)
    world.track()
    tags = world.client.get_experiment_by_name("default").tags
    state = json.loads(json.loads(tags["mlflow.sharedViewState.smollm2-135m-split20"])["state"])
    charts = state["compareRunCharts"]
    assert {chart["xaxis"]["key"] for chart in charts[:-1]} == {"bits_per_picture"}
    assert "perplexity" not in json.dumps(state["searchFilter"])


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
    other = world.directory / "other/default"
    shutil.copytree(world.results, other)
    (other / "mlflow-runs.json").unlink()
    sync(other, world.uri)
    records = [
        set(read_json(r / "mlflow-runs.json")["runs"].values()) for r in (world.results, other)
    ]
    assert records[0].isdisjoint(records[1])
    experiment = world.client.get_experiment_by_name("default").experiment_id
    assert len(world.client.search_runs([experiment])) == 18


def test_the_store_comes_from_the_environment(world, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", world.uri)
    ids = world.ids()
    sync(world.results)
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


def test_a_run_is_done_without_mlflow_and_shown_later(world, capsys):
    sync(world.results, "nonsense://store", later=True)
    assert "splitcodec track sync" in capsys.readouterr().out
    assert "nonsense" in read_json(world.record)["waits"]
    print_summary(world.results, console := Console(record=True))
    assert "splitcodec track sync" in console.export_text()
    sync(world.results, world.uri)
    assert "waits" not in read_json(world.record)
    assert len(read_json(world.record)["runs"]) == 9


def test_the_data_are_logged_by_hash(world):
    run = world.run(POINT)
    (given,) = run.inputs.dataset_inputs
    assert given.dataset.digest == run.data.tags["data_hash"][:36]
