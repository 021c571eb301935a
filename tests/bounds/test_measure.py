import json
import math

import pytest
import torch

from small_world import one_line, save_for, write_store
from splitcodec.activations.moments import moments_of, sample_tokens
from splitcodec.activations.store import Activations, ActivationWriter
from splitcodec.bounds.codec import covariance_of_codec, highest_rate, lipschitz_of_codec
from splitcodec.bounds.covariance import covariance_bound, shrunk_bound
from splitcodec.bounds.generalisation import held_out_slack
from splitcodec.bounds.lipschitz import certified_bound
from splitcodec.bounds.measure import measure_bounds
from splitcodec.bounds.rademacher import gram_matrix
from splitcodec.bounds.rate_distortion import gaussian_rate
from splitcodec.codecs.hyperparameters import KltHyperparameters
from splitcodec.codecs.klt import fit_klt
from splitcodec.codecs.registry import build_codec
from splitcodec.errors import InputError
from splitcodec.settings.measures import Bounds


def store(path, tokens=50, channels=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(1, -1, channels)
    rows = [scales * torch.randn(tokens, channels, generator=generator) for _ in range(20)]
    return write_store(path, rows, split=2, partition="evaluation", data_hash=f"d{seed}")


def klt(activations, rate_weight):
    moments = moments_of(activations)
    sample = sample_tokens(activations, 1000, 0)
    sensitivity = torch.eye(activations.channels, dtype=torch.float64)
    return fit_klt(KltHyperparameters(), moments, sensitivity, sample, rate_weight)


@pytest.fixture
def measured(tmp_path):
    activations = store(tmp_path / "a.parquet")
    folders = [
        save_for(
            klt(activations, rate_weight),
            activations,
            tmp_path / str(rate_weight),
            **{"lambda": rate_weight},
        )
        for rate_weight in (0.01, 0.1)
    ]
    return (
        activations,
        folders,
        measure_bounds(activations, folders, Bounds(rademacher_draws=200), 0),
    )


def test_the_report_is_plain_json_and_says_what_it_is_of(measured):
    activations, _, report = measured
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert (report["model"], report["split"], report["partition"]) == ("m", 2, "evaluation")
    assert (report["channels"], report["tokens"], report["sinks_left_out"]) == (6, 980, 0)
    moments = moments_of(activations)
    whole = covariance_bound(moments.covariance, moments.tokens)
    assert report["covariance"]["representation_bits_per_token"] == whole.bits_per_token
    assert report["covariance"]["standard_error"] == whole.standard_error
    assert 0 < report["rademacher"]["value"] <= report["rademacher"]["upper"]
    assert report["rademacher"]["samples"] == 20


def test_every_codecs_bound_lies_above_its_rate(measured):
    activations, folders, report = measured
    batch = activations.read(range(20))
    rows = report["covariance"]["codecs"]
    assert [row["lambda"] for row in rows] == [0.01, 0.1]
    for folder, row in zip(folders, rows, strict=True):
        codec = klt(activations, row["lambda"])
        symbols = (
            codec.latent(
                batch.representation - codec.means(None, batch.representation.shape[1])[0]
            )[:, 1:]
            .round()
            .flatten(0, 1)
        )
        entropy = 0.0
        for column in symbols.T:
            _, counts = column.unique(return_counts=True)
            shares = counts / counts.sum()
            entropy -= (shares * shares.log2()).sum().item()
        assert entropy < row["bits_per_token"] < entropy + 0.6 * codec.kept
        assert row["channels_coded"] == codec.kept
        assert folder.name == str(row["lambda"])
    assert rows[0]["bits_per_token"] > rows[1]["bits_per_token"]


def test_fewer_tokens_than_channels_shrink_the_bound_and_leave_none_given_the_past(
    tmp_path,
):
    activations = store(tmp_path / "a.parquet", tokens=2, channels=32)
    report = measure_bounds(activations, [], Bounds(rademacher_draws=10), 0)
    assert report["tokens"] == 20
    assert report["covariance"]["representation_bits_per_token"] > 0
    assert report["covariance"]["given_previous"]["bits_per_token"] is None
    json.dumps(report, allow_nan=False)


def test_a_codec_without_transform_gives_one_line(tmp_path):
    activations = store(tmp_path / "a.parquet")
    folder = save_for(build_codec("int4", 6, {}), activations, tmp_path / "int4")
    with pytest.raises(InputError, match="int4") as caught:
        measure_bounds(Activations(activations.path), [folder], Bounds(rademacher_draws=10), 0)
    assert one_line(caught.value)


@pytest.mark.parametrize(
    "meaning, said",
    [
        ({"split": 3, "data_hash": "e"}, "is of split 3"),
        ({"split": 2, "data_hash": "e", "model_hash": "other"}, "is of another model"),
        ({"split": 2, "data_hash": "d0"}, "holds the text that codecs are trained on"),
    ],
)
def test_held_out_is_what_codecs_have_not_seen(tmp_path, meaning, said):
    activations = store(tmp_path / "a.parquet")
    other = write_store(tmp_path / "o.parquet", [torch.randn(9, 6)] * 2, **meaning)
    with pytest.raises(InputError, match=said) as caught:
        measure_bounds(activations, [], Bounds(rademacher_draws=10), 0, evaluation=other)
    assert one_line(caught.value)


def test_codecs_of_another_model_and_empty_stores_are_refused(tmp_path):
    activations = store(tmp_path / "a.parquet")
    folder = save_for(klt(activations, 0.1), activations, tmp_path / "klt", model_hash="other")
    with pytest.raises(InputError, match="learned with another model"):
        measure_bounds(activations, [folder], Bounds(rademacher_draws=10), 0)
    meaning = {"split": 2, "data_hash": "e"}
    none = write_store(tmp_path / "n.parquet", [torch.randn(9, 6)], **meaning)
    with ActivationWriter(tmp_path / "n.parquet", 6, torch.float32, none.metadata):
        pass
    with pytest.raises(InputError, match=r"n\.parquet holds no sequences"):
        measure_bounds(activations, [], Bounds(), 0, evaluation=Activations(tmp_path / "n.parquet"))


def test_a_front_that_learned_has_other_activations(tmp_path):
    training = store(tmp_path / "training.parquet")
    learned = save_for(klt(training, 1e-3), training, tmp_path / "codec", mode="end-to-end")
    with pytest.raises(InputError, match="changed the front"):
        measure_bounds(training, [learned], Bounds(), 0)


def test_the_complexity_is_that_of_the_shortest_sequence(tmp_path):
    fresh, found = store(tmp_path / "fresh.parquet", seed=1), []
    for last in (50, 2):
        torch.manual_seed(0)
        rows = [torch.randn(tokens, 6) for tokens in [50] * 19 + [last]]
        training = write_store(tmp_path / f"{last}.parquet", rows, split=2, data_hash="mine")
        folder = save_for(klt(training, 0.01), training, tmp_path / f"codec{last}")
        report = measure_bounds(training, [folder], Bounds(rademacher_draws=10), 0, fresh)
        found.append(report["covariance"]["codecs"][0]["generalisation"]["pac"][0]["complexity"])
    assert found[1] == pytest.approx(5 * found[0], rel=0.2)


def test_the_bits_of_sequences_are_divided_by_their_mean_length(tmp_path):
    torch.manual_seed(0)
    rows = [torch.randn(tokens, 6) for tokens in (50, 2) * 10]
    activations = write_store(tmp_path / "a.parquet", rows)
    gram = gram_matrix(activations, moments_of(activations))
    of_vectors = shrunk_bound(torch.linalg.eigvalsh(gram) / 20, 300, 20)
    found = measure_bounds(activations, [], Bounds(rademacher_draws=10), 0)["covariance"]
    bits = found["whole_sequence"]["bits_per_token"]
    assert bits == pytest.approx(of_vectors.bits_per_token / 26)


def test_sequences_of_one_document_are_one_sample(tmp_path):
    fresh, found = store(tmp_path / "fresh.parquet", seed=1), []
    torch.manual_seed(0)
    rows = [torch.randn(50, 6) for _ in range(20)]
    for several in (1, 4):
        path = tmp_path / f"{several}.parquet"
        training = write_store(path, rows, a_document=several, split=2, data_hash="mine")
        folder = save_for(klt(training, 0.01), training, tmp_path / f"codec{several}")
        report = measure_bounds(training, [folder], Bounds(rademacher_draws=10), 0, fresh)
        found.append(report["covariance"]["codecs"][0]["generalisation"]["pac"][0])
    assert [row["samples"] for row in found] == [20, 5]
    assert found[1]["complexity"] == pytest.approx(4 * found[0]["complexity"])


def test_no_token_costs_more_than_the_highest_rate():
    for levels in (0, 3):
        codec = build_codec("klt", 6, {"levels": levels}, kept=1)
        torch.nn.init.eye_(codec.analysis)
        far = torch.full((1, 40, 6), 1e4)
        bits = codec(far, torch.tensor([40])).bits
        assert bits.max() <= highest_rate(codec) == 24 * (1 + bool(levels))


def test_one_document_promises_nothing(tmp_path):
    activations = store(tmp_path / "a.parquet")
    folder = save_for(klt(activations, 0.1), activations, tmp_path / "klt", name="mine")
    single = write_store(tmp_path / "o.parquet", [torch.randn(9, 6)], split=2, data_hash="e")
    effort = Bounds(rademacher_draws=10)
    report = measure_bounds(activations, [folder], effort, 0, evaluation=single)
    json.dumps(report, allow_nan=False)
    assert held_out_slack(torch.ones(1), 30.0, 0.05) == math.inf
    assert held_out_slack(torch.ones(2), 30.0, 0.05) < math.inf


@pytest.fixture
def everything(tmp_path):
    activations, fresh = store(tmp_path / "a.parquet"), store(tmp_path / "e.parquet", seed=1)
    facts = {"name": "mine", "lambda": 0.01}
    folder = save_for(klt(activations, 0.01), activations, tmp_path / "klt", **facts)
    sensitivity = torch.eye(6, dtype=torch.float64)
    return measure_bounds(
        activations,
        [folder],
        Bounds(rademacher_draws=50, rate_sequences=20),
        0,
        fresh,
        sensitivity,
        2.5,
    )


def test_where_tokens_choose_their_steps_no_covariance_bounds_the_latent(measured):
    activations, _, _ = measured
    moments = moments_of(activations)
    for levels in (0, 3):
        codec = build_codec("klt", 6, {"levels": levels}, kept=6)
        torch.nn.init.eye_(codec.analysis)
        bits = covariance_of_codec(codec, moments)["bits_per_token"]
        assert (bits is None) == bool(levels)


def test_codecs_are_called_what_their_points_are_called(everything):
    assert [row["codec"] for row in everything["covariance"]["codecs"]] == ["mine"]


def test_the_gap_between_partitions_and_to_the_source(everything):
    (row,) = everything["covariance"]["codecs"]
    found = row["generalisation"]
    # both partitions are drawn alike, so the gap is noise
    assert abs(found["gap"]) < 4 * found["gap_standard_error"]
    rates = found["training_bits_per_token"], found["evaluation_bits_per_token"]
    assert found["gap"] == pytest.approx(rates[1] - rates[0])
    assert row["gap_to_source"] == pytest.approx(rates[1] - 2.5)
    assert row["bits_per_token"] > rates[1]


def test_promises_cost_more_the_surer_they_are_and_less_with_more_samples(everything):
    found = everything["covariance"]["codecs"][0]["generalisation"]
    for rows in (found["held_out"], [r for r in found["pac"] if r["samples"] == 20]):
        slacks = [row["slack"] for row in rows]
        assert slacks == sorted(slacks)
        assert [row["delta"] for row in rows] == [0.1, 0.05, 0.01]
    at_one_delta = [row["slack"] for row in found["pac"] if row["delta"] == 0.05]
    assert at_one_delta == sorted(at_one_delta, reverse=True)
    assert all(row["slack"] > found["gap"] for row in found["pac"] + found["held_out"])


def test_the_spectral_norm_is_bits_by_a_unit_of_the_representation(everything):
    found = everything["covariance"]["codecs"][0]["lipschitz"]
    assert found["spectral_norm"] > 0
    assert found["prediction_certified"] is None


def test_what_is_certified_holds_for_the_longest_sequences(tmp_path):
    codec, found = build_codec("direct-access", 6, {"width": 16}, kept=6), []
    torch.nn.init.eye_(codec.prediction[-1].weight)
    for tokens in (64, 400):
        rows = [torch.randn(tokens, 6), torch.randn(9, 6)]
        activations = write_store(tmp_path / f"{tokens}.parquet", rows)
        found.append(lipschitz_of_codec(codec, activations)["prediction_certified"])
        assert found[-1] == certified_bound(codec.prediction, tokens)
    assert found[1] > found[0]


def test_the_rate_distortion_functions_enclose_a_gaussian_source(everything):
    for row in everything["rate_distortion"]:
        error = 5 * row["shannon_standard_error"] + 0.5
        assert row["shannon_bits_per_token"] <= row["gaussian_bits_per_token"] + error
    first, *_, last = everything["rate_distortion"]
    assert first["gaussian_bits_per_token"] > last["gaussian_bits_per_token"]
    assert first["shannon_bits_per_token"] == pytest.approx(first["gaussian_bits_per_token"], abs=1)


def test_the_rate_distortion_function_is_in_the_metric_of_the_sensitivity(tmp_path):
    """Also where that spans decades."""
    sensitivity = torch.logspace(1, -2, 6, dtype=torch.float64)
    report = measure_bounds(
        store(tmp_path / "a.parquet", tokens=500),
        [],
        Bounds(rademacher_draws=10),
        0,
        sensitivity=sensitivity.diag(),
    )
    variances = sensitivity * torch.logspace(2, -2, 6).double()
    for row in report["rate_distortion"]:
        expected = gaussian_rate(variances, row["distortion"]).bits_per_token
        assert row["gaussian_bits_per_token"] == pytest.approx(expected, rel=0.01, abs=0.2)


def test_few_tokens_leave_shannons_bound_at_nothing(tmp_path):
    activations = store(tmp_path / "a.parquet", tokens=2)
    few = write_store(tmp_path / "b.parquet", [activations.read([0]).representation[0]] * 3)
    sensitivity = torch.eye(6, dtype=torch.float64)
    report = measure_bounds(few, [], Bounds(rademacher_draws=10), 0, sensitivity=sensitivity)
    for row in report["rate_distortion"]:
        assert (row["shannon_bits_per_token"], row["shannon_standard_error"]) == (0, None)
