"""The verbs one after the other, as the workflow calls them, on the small model."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from splitcodec.activations.store import Activations
from splitcodec.codecs.registry import load_codec
from splitcodec.coding.container import Container

ROOT = Path(__file__).parents[2]

# Places say what is what, as in results/<experiment>.
PLACE = "model/split2"
KLT = f"codecs/{PLACE}/klt/lambda0.01-seed0"
HYPERPRIOR = f"codecs/{PLACE}/hyperprior/lambda0.01-seed3"
EVALUATIONS = {
    "klt": f"evaluation/{PLACE}/klt/lambda0.01-seed0.json",
    "hyperprior": f"evaluation/{PLACE}/hyperprior/lambda0.01-seed3.json",
    "int4": f"evaluation/{PLACE}/int4/fixed.json",
}
LATENCY = f"latency/{PLACE}.json"
TINY = ["side_channels=4", "width=16", "heads=2", "steps=3", "polish_steps=2"]


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    """Everything from extraction to the table of points."""
    folder = tmp_path_factory.mktemp("verbs")
    with pytest.MonkeyPatch.context() as patch:
        _all_verbs(world, folder, lambda *arguments: _main(patch, arguments))
    return folder


def _main(patch, arguments):
    from splitcodec import cli

    patch.setattr("sys.argv", ["splitcodec", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code, arguments


def _all_verbs(world, folder, run):
    model = ["--model", world.model_directory]
    for partition in ("train", "validation", "evaluation"):
        run("extract", *model, "--tokens", world.tokens(partition), "--split", 1, "--split", 2,
            "--out", folder, "--batch-sequences", 4)  # fmt: skip

    def store(place, partition):
        return folder / place / f"{partition}.parquet"

    train, evaluation = store("split2", "train"), store("split2", "evaluation")
    run("sensitivity", *model, "--activations", store("split1", "train"), "--activations", train,
        "--out", folder / "sensitivity", "--sequences", 6)  # fmt: skip
    sensitivity = ["--sensitivity", folder / "sensitivity/split2.safetensors"]
    klt, hyperprior = folder / KLT, folder / HYPERPRIOR
    run("train", "--codec", "klt", "--activations", train, *sensitivity, "--lambda", 0.01,
        "--out", klt)  # fmt: skip
    run("train", "--codec", "hyperprior", "--activations", train, *sensitivity,
        "--lambda", "1e-2", "--seed", 3, *(flag for pair in TINY for flag in ("--set", pair)),
        *model, "--references", store("final", "train"),
        "--validation", store("split2", "validation"),
        "--validation-references", store("final", "validation"), "--out", hyperprior)  # fmt: skip
    run("baselines", "--codec", "fp16", "--codec", "int4", "--activations", train,
        "--out", folder / f"codecs/{PLACE}")  # fmt: skip
    int4 = folder / f"codecs/{PLACE}/int4/fixed"
    jobs = [(klt, "ans", "klt.rdc"), (hyperprior, "ans", "hyperprior.rdc"), (int4, "zstd", "i.rdc")]
    flags = [
        flag
        for codec, coder, name in jobs
        for flag in ("--codec", codec, "--coder", coder, "--out", folder / name)
    ]
    run("encode", evaluation, *flags)
    run("decode", folder / "klt.rdc", "--codec", klt, "--activations", evaluation,
        "--out", folder / "decoded.parquet")  # fmt: skip
    flags = [
        flag
        for codec, _, name in jobs
        for flag in ("--codec", codec, "--bitstream", folder / name,
                     "--out", folder / EVALUATIONS[codec.parent.name])
    ]  # fmt: skip
    run("evaluate", *model, "--activations", evaluation,
        "--references", store("final", "evaluation"), *flags, "--bootstrap", 50)  # fmt: skip
    codecs = [flag for codec, _, _ in jobs for flag in ("--codec", codec)]
    run("latency", "--activations", evaluation, *codecs, "--out", folder / LATENCY,
        "--sequences", 2, "--repeats", 1)  # fmt: skip
    run("bounds", "--activations", evaluation, "--codec", klt, "--codec", hyperprior,
        "--out", folder / "bounds.json", "--rademacher-draws", 50)  # fmt: skip
    run("references", *model, "--activations", store("final", "evaluation"),
        "--train-tokens", world.tokens("train"), "--tokens", world.tokens("evaluation"),
        "--out", folder / "references.json", "--bootstrap", 50)  # fmt: skip
    evaluations = [
        f for c, _, _ in jobs for f in ("--evaluation", folder / EVALUATIONS[c.parent.name])
    ]
    metas = [f for c, _, _ in jobs for f in ("--codec", c / "codec.json")]
    run("collect", "--experiment", "test", *evaluations, *metas,
        "--latency", folder / LATENCY, "--csv", folder / "points.csv",
        "--parquet", folder / "points.parquet", "--metrics", folder / "metrics.json")  # fmt: skip


def points(folder, name):
    return json.loads((folder / EVALUATIONS[name]).read_text())["points"]


def test_extraction_writes_every_split_and_the_final_one(folder, world):
    for place, split in (("split1", 1), ("split2", 2), ("final", 3)):
        for partition in ("train", "validation", "evaluation"):
            store = Activations(folder / place / f"{partition}.parquet")
            assert store.metadata["split"] == split
            assert store.metadata["dtype"] == "float16"
            expected = world.activations(split, partition).read([0]).representation
            assert torch.equal(store.read([0]).representation, expected)


def test_extraction_without_the_final_one_writes_the_same_splits(folder, world, run):
    run("extract", "--model", world.model_directory, "--tokens", world.tokens("validation"),
        "--split", 1, "--no-final", "--out", folder / "short")  # fmt: skip
    (written,) = (folder / "short").rglob("*.parquet")
    before = folder / "split1/validation.parquet"
    ours, theirs = (Activations(path).read(range(4)) for path in (written, before))
    assert torch.equal(ours.representation, theirs.representation)


def test_flags_reach_the_codec(folder):
    codec, meaning = load_codec(folder / HYPERPRIOR)
    assert (meaning["lambda"], meaning["seed"], meaning["mode"]) == (0.01, 3, "frozen")
    assert codec.hyperparameters.width == 16
    phases = [json.loads(line)["phase"] for line in
              (folder / HYPERPRIOR / "training.jsonl").read_text().splitlines()]  # fmt: skip
    assert {"fit", "polish"} <= set(phases)


def test_no_checkpoint_or_scratch_is_left(folder):
    hidden = [path for path in folder.rglob("*") if path.name.startswith(".")]
    assert hidden == []
    assert not list(folder.rglob("*checkpoint*"))


def test_every_codec_gets_its_own_points(folder):
    for name, coder in (("klt", "ans"), ("hyperprior", "ans"), ("int4", "zstd")):
        (row,) = points(folder, name)
        assert row["coder"] == coder
        assert row["bits_per_token_file"] > 0
        assert row["partition"] == "evaluation"


def test_the_rate_is_that_of_the_file(folder):
    (row,) = points(folder, "klt")
    size = (folder / "klt.rdc").stat().st_size
    assert row["bits_per_token_file"] == 8 * size / row["tokens"]


def test_the_decoded_store_is_what_was_evaluated(folder):
    decoded = Activations(folder / "decoded.parquet")
    original = Activations(folder / "split2/evaluation.parquet")
    codec, _ = load_codec(folder / KLT)
    batch = original.read([0])
    expected = codec(batch.representation, batch.lengths).reconstruction
    torch.testing.assert_close(decoded.read([0]).representation, expected, rtol=1e-4, atol=1e-4)


def test_reports_of_other_verbs(folder, world):
    latency = json.loads((folder / LATENCY).read_text())
    assert len(latency["points"]) == 1 + 1 + 3
    bounds = json.loads((folder / "bounds.json").read_text())
    assert len(bounds["covariance"]["codecs"]) == 2
    references = json.loads((folder / "references.json").read_text())
    assert references["vocabulary"] == 257
    (row,) = points(folder, "klt")
    assert references["cross_entropy_uncoded"] == pytest.approx(row["cross_entropy_uncoded"])


def test_the_table_has_a_row_a_point(folder):
    table = pd.read_csv(folder / "points.csv")
    assert len(table) == 3 == pq.read_table(folder / "points.parquet").num_rows
    assert set(table["codec"]) == {"klt", "hyperprior", "int4"}


def test_inspect_says_what_files_hold(run, folder, world):
    header = json.loads(run("inspect", folder / "klt.rdc", "--json").out)
    assert (header["codec"], header["split"], header["partition"]) == ("klt", 2, "evaluation")
    assert 0 < header["payload_bytes"] < header["file_bytes"]
    meaning = json.loads(run("inspect", world.tokens("train"), "--verify").out)
    assert meaning["kind"] == "tokens"


def test_inspect_shows_people_the_chunks(run, folder):
    shown = run("inspect", folder / "klt.rdc").out
    container = Container.open(folder / "klt.rdc")
    for tokens, size in zip(container.lengths, container.sizes, strict=True):
        assert re.search(rf"\b{tokens}\W+{size}\W+{8 * size / tokens:,.1f}\b", shown)
    assert "--verify checks them" in shown
    short = run("inspect", folder / "klt.rdc", "--chunks", 2, "--verify").out
    assert "and 5 more" in short
    assert "all checksums fit" in short


def test_two_words_encode_and_decode(run, folder, tmp_path):
    """Everything but the codec has a default; the decoded store needs no original."""
    store = tmp_path / "mine.parquet"
    store.write_bytes((folder / "split2/evaluation.parquet").read_bytes())
    codec = folder / f"codecs/{PLACE}/int4/fixed"
    assert run("encode", store, "--codec", codec).code == 0
    assert run("decode", tmp_path / "mine.rdc", "--codec", codec).code == 0
    decoded = Activations(tmp_path / "mine.decoded.parquet")
    assert decoded.lengths == Activations(store).lengths
    assert decoded.metadata["decoded_from"] == "mine.rdc"


def test_containers_go_through_pipes(folder, tmp_path):
    """One program encodes to its standard output what another decodes from its standard input."""
    store, codec = folder / "split2/evaluation.parquet", folder / KLT
    splitcodec, out = Path(sys.executable).with_name("splitcodec"), tmp_path / "decoded.parquet"
    shell = f"""set -o pipefail; {splitcodec} encode {store} --codec {codec} --out - |
      tee {tmp_path / "same.rdc"} | {splitcodec} decode - --codec {codec} --out {out}"""
    subprocess.run(["bash", "-c", shell], check=True, timeout=120)
    assert (tmp_path / "same.rdc").read_bytes() == (folder / "klt.rdc").read_bytes()
    every = range(len(Activations(store)))
    decoded, expected = (
        Activations(path).read(every) for path in (out, folder / "decoded.parquet")
    )
    assert torch.equal(decoded.representation, expected.representation)


def test_a_pipe_needs_not_be_standard_input(folder, tmp_path):
    codec, out = folder / KLT, tmp_path / "decoded.parquet"
    splitcodec = Path(sys.executable).with_name("splitcodec")
    shell = f"{splitcodec} decode <(cat {folder / 'klt.rdc'}) --codec {codec} --out {out}"
    subprocess.run(["bash", "-c", shell], check=True, timeout=120)
    every = range(len(Activations(out)))
    stores = (Activations(path).read(every) for path in (out, folder / "decoded.parquet"))
    assert torch.equal(*(store.representation for store in stores))


@pytest.mark.parametrize(
    "shell, said",
    [
        ("encode {store} --codec {codec} --out - >&-", "standard output is closed"),
        ("decode - --codec {codec} --out {out} <&-", "standard input is closed"),
        ("cat {rdc} {rdc} | {splitcodec} decode - --codec {codec} --out {out}", "goes on after"),
        ("decode {rdc} --codec {codec} --out -", "a store is no stream"),
        ("decode {rdc} --codec {codec} --out /dev/null", "is a pipe or a device; name a file"),
    ],
)
def test_streams_that_cannot_be_are_refused(folder, tmp_path, shell, said):
    names = {"store": folder / "split2/evaluation.parquet", "codec": folder / KLT}
    names |= {"rdc": folder / "klt.rdc", "out": tmp_path / "out.parquet"}
    splitcodec = Path(sys.executable).with_name("splitcodec")
    line = shell.format(splitcodec=splitcodec, **names)
    line = line if line.startswith("cat") else f"{splitcodec} {line}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120)
    assert done.returncode
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
    assert Path(os.devnull).is_char_device()


def test_pipes_need_names_for_what_they_lead_to(run, folder):
    codec = ["--codec", folder / KLT]
    assert "standard input needs --out" in run("decode", "-", *codec).error
    done = run("encode", folder / "split2/evaluation.parquet", *codec, *codec,
               "--out", "-", "--out", "-")  # fmt: skip
    assert "takes one container" in done.error


@pytest.mark.parametrize("codec", [KLT, HYPERPRIOR])
def test_generation_prints_text_and_cost(run, folder, world, codec):
    done = run("generate", "--model", world.model_directory, "--codec", folder / codec,
               "--prompt", "some words", "--tokens", 5)  # fmt: skip
    assert done.code == 0, done.error
    text, figures = done.out.rstrip("\n").rsplit("\n", 1)
    assert text.startswith("some words")
    for said in ("bits a token", "front", "codec", "back"):
        assert said in figures


def test_model_and_tokens_from_the_command_line(run, tmp_path, world):
    model, tokens = tmp_path / "model", tmp_path / "tokens"
    arguments = ["--architecture", "gpt2", "--blocks", 2, "--channels", 16, "--heads", 2]
    assert run("fetch-model", "--kind", "random", *arguments, "--out", model).code == 0
    text = tmp_path / "documents.parquet"
    path = f"{world.folder}/text/*.txt"
    assert run("fetch-text", "--kind", "files", "--path", path, "--out", text).code == 0
    assert text.read_bytes() == world.documents.read_bytes()
    rules = ["--rule", "train: {share: [0, 0.5], sequences: 3}"]
    rules += ["--rule", "evaluation: {share: [0.5, 1], sequences: 2}"]
    done = run("tokenise", "--documents", text, "--model", model, *rules,
               "--sequence-length", 32, "--out", tokens)  # fmt: skip
    assert done.code == 0
    rows = {path.stem: pq.read_table(path).num_rows for path in tokens.iterdir()}
    assert rows == {"train": 3, "evaluation": 2}


def test_a_data_set_from_the_command_line(run, tmp_path):
    (tmp_path / "mine").mkdir()
    for split in ("train", "test"):
        rows = [json.dumps({"body": f"{split} {i}", "key": f"{split}{i}"}) for i in range(4)]
        (tmp_path / f"mine/{split}.jsonl").write_text("\n".join(rows))
    out = tmp_path / "documents.parquet"
    done = run("fetch-text", "--kind", "dataset", "--dataset", tmp_path / "mine", "--split", "test",
               "--text", "body", "--id", "key", "--documents", 2, "--out", out)  # fmt: skip
    assert done.code == 0, done.error
    assert pq.read_table(out).to_pydict() == {
        "document": ["test0", "test1"], "text": ["test 0", "test 1"]
    }  # fmt: skip


def test_a_model_that_learned_with_its_codec_passes_all_verbs(run, folder, world, tmp_path):
    model = ["--model", world.model_directory]
    train, evaluation = (folder / f"split2/{part}.parquet" for part in ("train", "evaluation"))
    codec = tmp_path / "end-to-end/lambda0.01-seed0"
    tuning = ["steps=4", "sequences=4", "batch_sequences=2", "learning_rate=1e-3"]
    done = run("train", "--codec", "hyperprior", "--mode", "end-to-end", "--name", "mine",
               "--lambda", 0.01, "--activations", train, *model,
               "--tokens", world.tokens("train"), "--out", codec,
               "--validation", folder / "split2/validation.parquet",
               *(flag for pair in TINY for flag in ("--set", pair)),
               *(flag for pair in tuning for flag in ("--tune", pair)))  # fmt: skip
    assert done.code == 0, done.error
    stream, out = tmp_path / "mine.rdc", tmp_path / "mine.json"
    encoding = ["encode", "--codec", codec, evaluation]
    assert "give --model" in run(*encoding, "--out", stream).complaint
    assert run(*encoding, "--out", stream, *model).code == 0
    done = run("decode", stream, "--codec", codec, "--activations", evaluation,
               "--out", tmp_path / "decoded.parquet")  # fmt: skip
    assert done.code == 0, done.error
    done = run("evaluate", *model, "--activations", evaluation,
               "--references", folder / "final/evaluation.parquet", "--codec", codec,
               "--bitstream", stream, "--out", out, "--bootstrap", 20)  # fmt: skip
    assert done.code == 0, done.error
    (row,) = json.loads(out.read_text())["points"]
    assert (row["codec"], row["mode"]) == ("mine", "end-to-end")
    assert row["cross_entropy"] != row["cross_entropy_uncoded"]
    assert row["bits_per_token_file"] == 8 * stream.stat().st_size / row["tokens"]
    timing = ["latency", "--activations", evaluation, "--codec", codec, "--repeats", 1]
    assert run(*timing, "--out", tmp_path / "latency.json", *model).code == 0


def test_a_model_is_made_from_text(run, world, tmp_path):
    sizes = ["blocks=1", "channels=16", "heads=2", "context=32", "vocabulary=270", "steps=2"]
    sizes += ["sequences=2", "batch_sequences=2"]
    done = run("pretrain", "--documents", world.documents, "--out", tmp_path / "model",
               "--rule", "train: {share: [0, 0.5], sequences: 3}",
               *(flag for pair in sizes for flag in ("--set", pair)))  # fmt: skip
    assert done.code == 0, done.error
    assert (tmp_path / "model/splitcodec.json").is_file()


def test_a_plan_from_measured_trainings_says_so_and_scales(run, tmp_path, monkeypatch):
    model, codec = tmp_path / "data/models/small", tmp_path / "results/codecs/a"
    for folder in (model, codec):
        folder.mkdir(parents=True)
    shape = {"n_layer": 12, "n_embd": 768, "vocab_size": 50257}
    (model / "config.json").write_text(json.dumps(shape))
    meaning = {"mode": "end-to-end", "model": "small", "split": 3}
    (codec / "codec.json").write_text(json.dumps(meaning))
    entries = [{"phase": "tuning", "tokens_per_second": 1e5}] * 2
    (codec / "training.jsonl").write_text("\n".join(map(json.dumps, entries)))
    params = ROOT / "params/paper.yaml"
    monkeypatch.chdir(tmp_path)
    hours = []
    for speedup in (1, 4):
        said = run("plan", params, "--measured", "results", "--speedup", speedup).out
        assert "the 74.1 TFLOP/s that the trainings of results reached" in said
        hours.append(float(re.search(r"^codecs +\d+ +([\d.]+)", said, re.MULTILINE)[1]))
    assert hours[0] == pytest.approx(4 * hours[1], rel=0.02)
    (codec / "training.jsonl").unlink()
    complaint = run("plan", params, "--measured", "results").complaint
    assert "training.jsonl cannot be read" in complaint
