import copy
import itertools
import json

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

from small_world import save_for
from splitcodec import with_codec
from splitcodec.codecs.registry import build_codec
from splitcodec.errors import InputError
from splitcodec.inference.scoring import Scorer, accuracies, read_items, summarise
from splitcodec.inference.tasks import run_task
from splitcodec.settings.tasks import FilesTask
from splitcodec.splitting.model import SplitModel

SPLIT = 2
ITEMS = [
    ("four score and seven ", "years"),
    ("the state of the union is", " strong"),
    ("a", "b"),
    ("", "the people"),
]


@pytest.fixture(scope="module")
def half(world):
    """The model in float16, in which the fp16 baseline is lossless."""
    return AutoModelForCausalLM.from_pretrained(world.model_directory, dtype=torch.float16).eval()


@pytest.fixture(scope="module")
def tokeniser(world):
    return AutoTokenizer.from_pretrained(world.model_directory)


@pytest.fixture(scope="module")
def folders(world, tmp_path_factory):
    folder, train = tmp_path_factory.mktemp("codecs"), world.activations(SPLIT, "train")
    return {
        name: save_for(build_codec(name, 32, {}), train, folder / name) for name in ("fp16", "int2")
    }


@pytest.fixture
def items_file(half, tokeniser, tmp_path):
    """Items of which the plain model gets about half right."""
    scorer, lines = Scorer(half, tokeniser, 2), []
    for number in range(200):
        context = f"{number} years"
        ids = scorer.encode(context)
        best = int(scorer.logits([[*scorer.prefix, *ids]])[0, -1].argmax())
        said = tokeniser.decode([best])
        if said.strip() and scorer.encode_pair(context, said) == (ids, [best]):
            lines.append({"context": context, "continuation": said})
    assert len(lines) > 2
    lines = [*lines[:2], {"context": lines[2]["context"], "continuation": "never this"}]
    path = tmp_path / "items.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def scores(model, tokeniser, batch=2):
    scorer = Scorer(model, tokeniser, batch)
    return scorer, scorer.score([scorer.encode_pair(*item) for item in ITEMS])


def test_with_the_lossless_codec_scores_are_the_plain_models(half, folders, tokeniser):
    plain, expected = scores(half, tokeniser)
    coded, found = scores(with_codec(half, folders["fp16"]), tokeniser)
    assert found == expected
    assert coded.bits_per_token > 0
    assert plain.bits_per_token is None
    _, lossy = scores(with_codec(half, folders["int2"]), tokeniser)
    assert lossy != expected


@pytest.mark.parametrize("batch", [1, 3])
def test_scores_are_those_of_the_definition(batch, half, tokeniser):
    scorer, found = scores(half, tokeniser, batch)
    context, continuation = scorer.encode_pair(*ITEMS[1])
    row = [*scorer.prefix, *context, *continuation]
    logits = half(torch.tensor([row])).logits[0].float().log_softmax(-1)
    nats = sum(
        logits[len(row) - len(continuation) - 1 + i, token].item()
        for i, token in enumerate(continuation)
    )
    assert found[1].log_likelihood == pytest.approx(nats, abs=1e-5)


def test_a_codec_that_codes_nothing_is_an_error(half, folders, tokeniser, monkeypatch):
    coded = with_codec(half, folders["fp16"])
    monkeypatch.setattr(coded, "_compress", lambda tokens, lengths: [b""] * len(tokens))
    monkeypatch.setattr(
        coded.codec,
        "decompress",
        lambda streams, lengths: torch.zeros(len(streams), lengths.max(), 32),
    )
    with pytest.raises(InputError, match="codec was not applied"):
        scores(coded, tokeniser)


def test_a_task_of_files(world, half, folders, items_file):
    task = FilesTask(kind="files", name="mine", path=str(items_file))
    model = SplitModel(half)
    lossless, lossy = run_task(
        task, model, world.model_directory, [folders["fp16"], folders["int2"]], 2, 100
    )
    assert lossless["accuracy"] == lossless["accuracy_uncoded"] > 0
    assert 0 <= lossless["low"] <= lossless["accuracy"] <= lossless["high"] <= 1
    assert lossless["items"] == 3
    assert lossy["bits_per_token"] < lossless["bits_per_token"] / 4


def test_a_damaged_tokeniser_is_named(world, half, folders, items_file, tmp_path):
    (tmp_path / "config.json").write_bytes((world.model_directory / "config.json").read_bytes())
    (tmp_path / "tokenizer.json").write_text("{")
    task = FilesTask(name="words", kind="files", path=str(items_file))
    with pytest.raises(InputError, match=f"cannot read the model in {tmp_path}"):
        run_task(task, SplitModel(half), tmp_path, [folders["int2"]], 2, 10)


def test_intervals_hold_the_mean_and_shrink_with_items():
    few, many = (summarise(np.tile([0.0, 1.0], n), 500) for n in (10, 1000))
    assert few["low"] < few["accuracy"] == 0.5 < few["high"]
    assert many["high"] - many["low"] < (few["high"] - few["low"]) / 5


@pytest.mark.parametrize(
    "line", ['{"context": "a"}', "[1]", '{"context": "a", "continuation": " "}', "{"]
)
def test_bad_items_are_named(tmp_path, line):
    path = tmp_path / "items.jsonl"
    path.write_text('{"context": "a", "continuation": "b"}\n' + line)
    with pytest.raises(InputError, match=r"items\.jsonl, line 2: needs text"):
        read_items(str(path), None)


def test_no_items_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no item in"):
        read_items(str(tmp_path / "*.jsonl"), None)


def with_start(tokeniser):
    """A copy that heads each text with the token that the scorer takes for a start."""
    copied, start = copy.deepcopy(tokeniser), tokeniser.eos_token
    copied.bos_token = start
    copied.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, tokeniser.eos_token_id)]
    )
    return copied


def test_the_harness_gives_the_numbers_of_its_own_model(
    world, half, folders, tokeniser, items_file, monkeypatch
):
    pytest.importorskip("lm_eval")
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    from splitcodec.inference.harness import harness_accuracies

    monkeypatch.setenv("HF_DATASETS_CACHE", str(items_file.parent / "cache"))
    task = {
        "task": "mine",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(items_file)}},
        "test_split": "test",
        "output_type": "loglikelihood",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{continuation}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    own = HFLM(pretrained=half, tokenizer=with_start(tokeniser), add_bos_token=True, batch_size=1)
    expected = simple_evaluate(own, tasks=[dict(task)], bootstrap_iters=0)["results"]["mine"]
    plain = Scorer(half, tokeniser, 1)
    coded = Scorer(with_codec(half, folders["fp16"]), tokeniser, 1)
    values = [harness_accuracies(scorer, dict(task), "acc", None) for scorer in (plain, coded)]
    assert values[0].mean() == expected["acc,none"] > 0
    assert np.array_equal(*values)
    assert np.array_equal(values[0], accuracies(plain, read_items(str(items_file), None)))


@pytest.mark.parametrize("codec", [None, "int2"])
def test_a_scorer_continues_as_the_whole_prefix_would(codec, half, folders, tokeniser):
    model = half if codec is None else with_codec(half, folders[codec])
    scorer, prompt = Scorer(model, tokeniser, 1), tokeniser("The same words")["input_ids"]
    made = list(itertools.islice(scorer.continued(prompt), 6))
    again = Scorer(model, tokeniser, 1)
    for count, following in enumerate(made):
        logits = again.logits([[*again.prefix, *prompt, *made[:count]]])
        assert following == int(logits[0, -1].argmax())
    if codec:
        assert scorer.tokens == len(scorer.prefix) + len(prompt) + 5
        assert scorer.bits_per_token > 0


def test_the_harness_generates_until_a_stop(half, folders, tokeniser):
    pytest.importorskip("lm_eval")
    from splitcodec.inference.harness import HarnessModel

    plain = Scorer(half, tokeniser, 1)
    prompt = plain.encode("The same words")
    whole = tokeniser.decode(list(itertools.islice(plain.continued(prompt), 6)))
    coded = HarnessModel(Scorer(with_codec(half, folders["fp16"]), tokeniser, 1))
    options = {"until": [whole[2:4]], "max_gen_toks": 6}
    made = coded._generate("The same words", options)
    assert made == whole.split(whole[2:4])[0]


@pytest.mark.parametrize("chosen, expected", [("last", [0.0, 1.0]), (None, None)])
def test_of_several_filters_one_counts(monkeypatch, chosen, expected, half, tokeniser):
    pytest.importorskip("lm_eval")
    from splitcodec.inference import harness

    samples = [
        {"filter": name, "acc": value, "metrics": ["acc"]}
        for name, values in {"first": [1.0, 1.0], "last": [0.0, 1.0]}.items()
        for value in values
    ]
    monkeypatch.setattr(harness, "simple_evaluate", lambda *_, **__: {"samples": {"t": samples}})
    scorer = Scorer(half, tokeniser, 1)
    if expected is None:
        with pytest.raises(InputError, match="has filters first, last; set filter"):
            harness.harness_accuracies(scorer, "t", "acc", None, chosen)
    else:
        found = harness.harness_accuracies(scorer, "t", "acc", None, chosen)
        assert found.tolist() == expected
