import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from small_world import one_line, write_store
from splitcodec.errors import BitstreamError, InputError
from splitcodec.evaluation import measures
from splitcodec.evaluation.bitstreams import FileDecoder, encode
from splitcodec.evaluation.fidelity import evaluate, evaluate_uncoded
from splitcodec.evaluation.measures import (
    AGREEMENT,
    CODED,
    COUNT,
    KL,
    UNCODED,
    interval,
    summarise,
)

RESAMPLES = 200


@pytest.fixture(scope="module")
def rows(world, stores, codecs, bitstreams):
    """Points by codec's folder name and coder."""
    found = evaluate(
        world.model,
        stores.split,
        stores.final,
        list(codecs.values()),
        list(bitstreams.values()),
        batch_sequences=3,
        resamples=RESAMPLES,
    )
    assert len(found) == len(bitstreams)
    by_size = {
        8 * path.stat().st_size / stores.split.tokens: key for key, path in bitstreams.items()
    }
    return {by_size[row["bits_per_token_file"]]: row for row in found}


def own_loss(world):
    """Cross-entropy in nats a predicted token, as transformers computes it."""
    model = AutoModelForCausalLM.from_pretrained(world.model_directory, dtype=torch.float32)
    total = count = 0
    for sequence in world.token_table("evaluation").sequences:
        tokens = torch.from_numpy(sequence)[None]
        with torch.no_grad():
            total += model(tokens, labels=tokens).loss.item() * (len(sequence) - 1)
        count += len(sequence) - 1
    return total / count


def test_a_lossless_codec_changes_nothing(rows, stores, world):
    for coder in ("raw", "deflate", "zstd"):
        row = rows["fp16", coder]
        assert row["kl"] == pytest.approx(0, abs=1e-5)
        assert row["top1_agreement"] == 1
        assert row["cross_entropy"] == pytest.approx(row["cross_entropy_uncoded"], abs=1e-4)


def test_the_uncoded_cross_entropy_is_the_models_own_loss(world, stores, rows):
    own = own_loss(world)
    found = evaluate_uncoded(world.model, stores.final32, 3, RESAMPLES)
    assert found["cross_entropy"] == pytest.approx(own, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(own), rel=1e-5)
    assert found["kl"] == pytest.approx(0, abs=1e-6)
    assert found["top1_agreement"] == 1
    for row in rows.values():
        assert row["cross_entropy_uncoded"] == pytest.approx(own, rel=1e-3)


@pytest.mark.parametrize("longer", [True, False])
def test_of_sequences_of_one_token_nothing_is_predicted(world, stores, tmp_path, longer):
    rows = [row[:1] for row in stores.final.read(range(3)).representation]
    if longer:
        rows[2] = stores.final.read([2]).representation[0, :5]
    short = write_store(tmp_path / "short.parquet", rows, split=stores.final.metadata["split"])
    if longer:
        assert evaluate_uncoded(world.model, short, 1, 10)["top1_agreement"] == 1
        return
    with pytest.raises(
        InputError, match="nothing is predicted of sequences of one token"
    ) as caught:
        evaluate_uncoded(world.model, short, 1, 10)
    assert one_line(caught.value)


@pytest.mark.parametrize("name, coder", [("int2", "zstd"), ("coarse", "ans")])
def test_the_figures_are_those_of_the_model_on_what_was_decoded(
    world, stores, codecs, bitstreams, rows, name, coder
):
    decoder = FileDecoder(bitstreams[name, coder], [codecs[name]])
    sums = torch.zeros(4, dtype=torch.float64)
    for number in range(7):
        reference, batch = stores.final.read([number]), stores.split.read([number])
        with torch.no_grad():
            coded = world.model.back(decoder.decode([number]), 2)[0, :-1].log_softmax(-1)
            uncoded = world.model.back(reference.representation, 3)[0, :-1].log_softmax(-1)
        labels = batch.tokens[0, 1:]
        sums += torch.stack(
            [
                -coded[torch.arange(len(labels)), labels].sum(),
                (uncoded.exp() * (uncoded - coded)).sum(),
                (coded.argmax(-1) == uncoded.argmax(-1)).sum(),
                torch.tensor(len(labels)),
            ]
        )
    row = rows[name, coder]
    assert row["cross_entropy"] == pytest.approx((sums[0] / sums[3]).item(), rel=1e-4)
    assert row["perplexity"] == pytest.approx(math.exp(row["cross_entropy"]))
    assert row["kl"] == pytest.approx((sums[1] / sums[3]).item(), rel=1e-3)
    assert row["top1_agreement"] == pytest.approx((sums[2] / sums[3]).item(), abs=1e-6)
    assert row["kl"] > 0.01
    assert row["top1_agreement"] < 1


def test_rates_are_counted_from_files(rows, bitstreams, stores):
    assert rows.keys() == bitstreams.keys()
    for key, row in rows.items():
        assert row["bits_per_token_file"] == 8 * bitstreams[key].stat().st_size / row["tokens"]
        assert 0 < row["bits_per_token_payload"] < row["bits_per_token_file"]
        assert row["tokens"] == stores.split.tokens
        assert row["documents"] == 4
    assert rows["fp16", "raw"]["bits_per_token_payload"] == 16 * 32
    assert rows["int8", "raw"]["bits_per_token_estimated"] == 8 * 32 + 16
    assert rows["int8", "zstd"]["bits_per_token_estimated"] is None
    fine = rows["fine", "ans"]
    # eight bytes a sequence for checksum and the coder's state
    overhead = 8 * 8 * 7 / fine["tokens"]
    payload = fine["bits_per_token_payload"] - overhead
    assert payload == pytest.approx(fine["bits_per_token_estimated"], rel=0.02)


def test_finer_codecs_cost_more_and_lose_less(rows):
    for finer, coarser in (
        (("fine", "ans"), ("coarse", "ans")),
        (("int8", "raw"), ("int2", "raw")),
    ):
        assert rows[finer]["bits_per_token_file"] > rows[coarser]["bits_per_token_file"]
        assert rows[finer]["kl"] < rows[coarser]["kl"]
        assert rows[finer]["top1_agreement"] > rows[coarser]["top1_agreement"]


def test_points_say_what_they_are_of(rows, codecs, stores):
    fine, raw = rows["fine", "ans"], rows["int8", "raw"]
    assert (fine["codec"], fine["coder"], fine["mode"]) == ("klt", "ans", "frozen")
    assert (fine["lambda"], fine["seed"]) == (0.001, 0)
    assert (raw["mode"], raw["lambda"], raw["seed"]) == ("none", None, None)
    assert fine["data_hash"] == stores.split.metadata["data_hash"]
    assert fine["codec_hash"] != raw["codec_hash"]


def test_the_batch_size_does_not_matter(world, stores, codecs, bitstreams, rows):
    for size in (1, 7):
        (row,) = evaluate(
            world.model,
            stores.split,
            stores.final,
            [codecs["coarse"]],
            [bitstreams["coarse", "ans"]],
            size,
            RESAMPLES,
        )
        expected = rows["coarse", "ans"]
        documents = zip(row.pop("by_document"), expected["by_document"], strict=True)
        assert {*row, "by_document"} == expected.keys()
        for found, wanted in [(row, expected), *documents]:
            for key in found:
                close = isinstance(wanted[key], float)
                assert found[key] == (
                    pytest.approx(wanted[key], rel=1e-4) if close else wanted[key]
                )


def test_intervals_hold_the_mean(rows):
    for row in rows.values():
        assert row["cross_entropy_low"] < row["cross_entropy"] < row["cross_entropy_high"]
        assert row["kl_low"] <= row["kl"] <= row["kl_high"]


def test_wrong_data_wrong_codec_wrong_references(world, stores, codecs, bitstreams, tmp_path):
    def run(activations, references, codec, path):
        evaluate(world.model, activations, references, [codecs[codec]], [path], 2, 10)

    path = bitstreams["coarse", "ans"]
    validation = world.activations(2, "validation"), world.activations(3, "validation")
    with pytest.raises(InputError, match="other data") as caught:
        run(*validation, "coarse", path)
    assert one_line(caught.value)
    with pytest.raises(InputError, match="same tokens") as caught:
        run(stores.split, validation[1], "coarse", path)
    assert one_line(caught.value)
    with pytest.raises(InputError, match="is of split 2, where that of split 3 is due"):
        run(stores.split, stores.split, "coarse", path)
    with pytest.raises(InputError, match="split 2"):
        evaluate_uncoded(world.model, stores.split, 2, 10)
    with pytest.raises(BitstreamError, match="hash"):
        run(stores.split, stores.final, "fine", path)
    (tmp_path / "cut.rdc").write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BitstreamError, match=r"cut\.rdc is damaged"):
        run(stores.split, stores.final, "coarse", tmp_path / "cut.rdc")


def test_coders_that_decode_differently_are_noticed(world, stores, codecs, bitstreams, tmp_path):
    """Both intact, of one codec and the same tokens, but not of one representation."""
    shifted = [row[:n] + 1 for row, n in zip(*_representations(stores.split), strict=True)]
    kept = ("model", "model_hash", "data_hash", "split", "partition")
    meaning = {key: stores.split.metadata[key] for key in kept}
    other = write_store(tmp_path / "other.parquet", shifted, **meaning)
    encode(other, codecs["int8"], "deflate", tmp_path / "other.rdc")
    paths = [bitstreams["int8", "raw"], tmp_path / "other.rdc"]
    with pytest.raises(BitstreamError, match="decode differently") as caught:
        evaluate(world.model, stores.split, stores.final, [codecs["int8"]], paths, 2, 10)
    assert one_line(caught.value)


def _representations(activations):
    batch = activations.read(range(len(activations)))
    return batch.representation, batch.lengths.tolist()


def table_of(documents, seed=0):
    generator = np.random.default_rng(seed)
    counts = generator.integers(20, 60, documents)
    table = np.zeros((documents, 5))
    table[:, COUNT] = counts
    table[:, CODED] = counts * generator.normal(3, 0.5, documents)
    table[:, UNCODED] = table[:, CODED] - 0.1 * counts
    table[:, KL] = 0.1 * counts
    table[:, AGREEMENT] = 0.9 * counts
    return table


def test_summary_weighs_documents_by_their_tokens():
    table = np.array([[10.0, 8, 1, 4, 5], [90.0, 80, 3, 45, 45]])
    found = summarise(table, 50)
    assert found["cross_entropy"] == 2
    assert found["perplexity"] == pytest.approx(math.exp(2))
    assert found["cross_entropy_uncoded"] == pytest.approx(88 / 50)
    assert found["kl"] == pytest.approx(4 / 50)
    assert found["top1_agreement"] == pytest.approx(49 / 50)


def test_intervals_shrink_with_documents_and_cover_the_truth():
    widths, covered = [], 0
    for documents in (10, 40, 160):
        low, high = interval(table_of(documents), CODED, 1000)
        mean = table_of(documents)[:, CODED].sum() / table_of(documents)[:, COUNT].sum()
        assert low < mean < high
        widths.append(high - low)
    assert widths[0] > 1.5 * widths[1] > 2.25 * widths[2]
    for seed in range(200):
        low, high = interval(table_of(40, seed), CODED, 300)
        covered += low < 3 < high
    assert 0.88 < covered / 200 < 0.99


def test_intervals_are_of_the_mean_over_tokens_not_over_documents():
    table = np.ones((40, 5))
    table[:20, COUNT], table[20:, COUNT] = 1000, 10
    table[:20, CODED], table[20:, CODED] = 1000, 50
    low, high = interval(table, CODED, 500)
    assert 1 < low < 21_000 / 20_200 < high < 1.1


def test_intervals_are_repeatable_and_one_document_has_none():
    table = table_of(12)
    assert interval(table, CODED, 100) == interval(table, CODED, 100)
    low, high = interval(table[:1], CODED, 100)
    assert low == high == table[0, CODED] / table[0, COUNT]


def test_intervals_do_not_depend_on_how_many_resamples_memory_holds(monkeypatch):
    table = table_of(50)
    whole = interval(table, CODED, 300)
    for held in (1, 50 * 7, 50 * 299):
        monkeypatch.setattr(measures, "_DRAWN_AT_ONCE", held)
        assert interval(table, CODED, 300) == whole
