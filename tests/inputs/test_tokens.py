import itertools
import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from small_world import one_line
from splitcodec.errors import InputError, SettingsError
from splitcodec.inputs import tokenisers
from splitcodec.inputs.models import fetch_model
from splitcodec.inputs.text import fetch_text
from splitcodec.inputs.tokens import read_tokens, share_out, spread, tokenise
from splitcodec.settings import FilesSource, Partition, RandomSource

START = 256
LENGTHS = {"1900_a": 1000, "1901_b": 35, "1902_c": 300, "1903_d": 5, "1904_e": 95, "none": 200}
LETTERS = "".join(map(chr, range(97, 123)))


def text_of(name):
    """A text that shows where one is in it."""
    letters = itertools.chain.from_iterable(itertools.product(LETTERS, repeat=3))
    return name[-1] + "".join(itertools.islice(letters, LENGTHS[name] - 1))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model") / "small"
    fetch_model(RandomSource(kind="random", architecture="gpt2", blocks=1, context=64), directory)
    return directory


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for name in LENGTHS:
        (folder / f"{name}.txt").write_text(text_of(name))
    fetch_text(FilesSource(kind="files", path=f"{folder}/*.txt"), None, folder / "d.parquet")
    return folder / "d.parquet"


@pytest.fixture
def cut(documents, model, tmp_path):
    def run(rule, others=None, length=21, start=True):
        out = tmp_path / "train.parquet"
        tokenise(documents, model, "train", rule, others or {}, length, start, out)
        return read_tokens(out)

    return run


def everything(sequences=1000):
    return Partition(documents=["*"], sequences=sequences)


def decode(sequence):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return "".join(alphabet[i] for i in sequence)


def test_windows_of_a_document_join_to_its_text(cut):
    table = cut(Partition(documents=["1902_c"], sequences=1000))
    assert all(sequence[0] == START for sequence in table.sequences)
    assert all(len(sequence) == 21 for sequence in table.sequences)
    joined = np.concatenate([sequence[1:] for sequence in table.sequences])
    assert decode(joined) == text_of("1902_c")
    assert set(table.documents) == {"1902_c"}


def test_without_a_start_token_all_tokens_are_text(cut):
    table = cut(Partition(documents=["1902_c"], sequences=1000), length=60, start=False)
    assert decode(np.concatenate(table.sequences)) == text_of("1902_c")


def test_a_short_rest_is_kept_from_sixteen_tokens_on(cut):
    lengths = {
        name: [len(s) for d, s in zip(t.documents, t.sequences, strict=True) if d == name]
        for t in [cut(everything())]
        for name in LENGTHS
    }
    assert lengths["1901_b"] == [21, 16]  # 35 = 20 + 15, and the start token
    assert lengths["1904_e"] == [21, 21, 21, 21, 16]
    assert lengths["1903_d"] == []
    assert len(lengths["1900_a"]) == 50


def test_sequences_are_spread_over_documents_and_inside_them(cut):
    table = cut(everything(9))
    counts = {name: table.documents.count(name) for name in LENGTHS}
    assert sorted(counts.values()) == [0, 1, 2, 2, 2, 2]
    assert list(table.documents) == sorted(table.documents)
    long = [s for d, s in zip(table.documents, table.sequences, strict=True) if d == "1900_a"]
    places = [text_of("1900_a").index(decode(s[1:])) // 20 for s in long]
    assert places in ([12, 37], [25])  # of windows 0 to 49


def test_short_documents_leave_their_share_to_long_ones(cut):
    table = cut(everything(40))
    assert len(table.sequences) == 40
    assert table.documents.count("1901_b") == 2


def test_documents_are_read_again_only_until_there_are_enough(cut, monkeypatch):
    seen = []
    kind, encode = tokenisers.WindowEncoder, tokenisers.WindowEncoder.encode
    monkeypatch.setattr(kind, "encode", lambda self, text: seen.append(text) or encode(self, text))
    assert len(cut(everything(2)).sequences) == 2
    assert len(seen) <= 3


def test_a_long_text_is_tokenised_in_pieces_to_the_same_tokens(cut, monkeypatch):
    rule = Partition(documents=["1900_a"], sequences=1000)
    whole = cut(rule)
    monkeypatch.setattr(tokenisers, "_PIECE_CHARACTERS", 64)
    pieces = cut(rule)
    assert all(map(np.array_equal, whole.sequences, pieces.sequences))


@given(st.text(alphabet=" ab\n", max_size=60), st.integers(1, 20))
def test_pieces_join_to_the_text(text, length):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenisers, "_PIECE_CHARACTERS", length)
        pieces = list(tokenisers._pieces(text))
    assert "".join(pieces) == text
    assert all(len(piece) <= length for piece in pieces)


def test_rules(cut):
    def chosen(**rule):
        return sorted(set(cut(Partition(**rule, sequences=99)).documents))

    assert chosen(between=(1901, 1902)) == ["1901_b", "1902_c"]
    assert chosen(documents=["*_a", "none"]) == ["1900_a", "none"]
    assert chosen(share=(0.5, 1)) == ["1904_e", "none"]  # 1903_d is too short for a window
    assert chosen(share=(0, 0.5)) == ["1900_a", "1901_b", "1902_c"]


def test_the_file_says_what_it_is(cut, documents, model):
    meaning = cut(everything(3)).metadata
    identity = json.loads((model / "splitcodec.json").read_text())
    assert meaning["kind"] == "tokens"
    assert meaning["model"] == "small"
    assert meaning["model_hash"] == identity["model_hash"]
    assert meaning["tokeniser_hash"] == identity["tokeniser_sha256"]
    assert (meaning["partition"], meaning["sequence_length"], meaning["start_token"]) == (
        "train",
        21,
        True,
    )
    assert meaning["text"]["documents"] == 6
    assert meaning["text"]["sha256"]


def test_the_same_parameters_give_the_same_bytes(cut, tmp_path):
    cut(everything(7))
    before = (tmp_path / "train.parquet").read_bytes()
    cut(everything(7))
    assert (tmp_path / "train.parquet").read_bytes() == before


def test_a_shared_document_is_named(cut):
    rule = Partition(between=(1900, 1902), sequences=4)
    others = {
        "validation": Partition(documents=["none"], sequences=4),
        "evaluation": Partition(between=(1902, 1950), sequences=4),
    }
    with pytest.raises(SettingsError, match=r"train and evaluation share 1 documents \(1902_c\)"):
        cut(rule, others)


def test_a_rule_that_selects_nothing_shows_what_there_is(cut):
    with pytest.raises(SettingsError, match=r"selects none of the 6 documents \(1900_a to none\)"):
        cut(Partition(between=(1, 2), sequences=4))


def test_documents_too_short_for_any_window_are_an_error(cut):
    with pytest.raises(SettingsError, match="no document of partition train has 16 tokens"):
        cut(Partition(documents=["1903_d"], sequences=4))


def test_a_sequence_longer_than_the_model_reads_is_an_error(cut):
    with pytest.raises(SettingsError, match="sequence_length 65 exceeds the 64 positions of small"):
        cut(everything(), length=65)


def test_a_tokeniser_without_a_start_token_is_an_error(cut, monkeypatch):
    from transformers import PreTrainedTokenizerFast

    for name in ("bos_token_id", "eos_token_id"):
        monkeypatch.setattr(PreTrainedTokenizerFast, name, None, raising=False)
    assert cut(everything(2), start=False).sequences
    with pytest.raises(SettingsError, match=r"has no start token; set text.start_token to false"):
        cut(everything(2))


def test_missing_truncated_and_foreign_files_are_told_apart(cut, documents, tmp_path):
    cut(everything())
    whole = (tmp_path / "train.parquet").read_bytes()
    broken = tmp_path / "broken.parquet"
    with pytest.raises(InputError, match="does not exist; run the step"):
        read_tokens(broken)
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"is damaged .*; delete it"):
        read_tokens(broken)
    broken.write_bytes(whole[:900] + bytes([whole[900] ^ 1]) + whole[901:])
    with pytest.raises(InputError, match=r"is damaged .*; delete it"):
        read_tokens(broken).sequences[0]
    with pytest.raises(InputError, match="holds text, not tokens"):
        read_tokens(documents)


def test_a_missing_model_is_named(documents, tmp_path):
    with pytest.raises(InputError, match="nowhere holds no model"):
        tokenise(
            documents, tmp_path / "nowhere", "train", everything(), {}, 21, True, tmp_path / "out"
        )


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 60))
def test_shares_are_as_even_as_the_documents_allow(counts, wanted):
    windows = dict(enumerate(counts))
    quotas = share_out(windows, wanted)
    assert sum(quotas.values()) == min(wanted, sum(counts))
    assert all(0 < quotas[d] <= windows[d] for d in quotas)
    most = max(quotas.values())
    for document in windows:
        given_ = quotas.get(document, 0)
        assert given_ >= most - 1 or given_ == windows[document]


@given(st.integers(1, 300))
def test_every_beginning_of_the_spread_order_covers_the_range(count):
    order = spread(range(count))
    assert sorted(order) == list(range(count))
    for taken in range(1, count + 1):
        edges = [-1, *sorted(order[:taken]), count]
        assert max(b - a for a, b in itertools.pairwise(edges)) <= 4 * count / taken + 1


@pytest.mark.parametrize("text", ["{", '{"version": "1.0"}', "[]"])
def test_a_damaged_tokeniser_gives_one_clear_line(model, tmp_path, text):
    damaged = tmp_path / "damaged"
    shutil.copytree(model, damaged)
    (damaged / "tokenizer.json").write_text(text)
    with pytest.raises(InputError, match=f"cannot read the model in {damaged}: ") as caught:
        tokenisers.Prompts.load(damaged)
    assert one_line(caught.value)


def test_a_prompt_begins_as_sequences_do(model):
    headed, bare = tokenisers.Prompts.load(model), tokenisers.Prompts.load(model, False)
    assert headed.encode("word").tolist() == [headed.start, *bare.encode("word").tolist()]
    assert headed.encode("").tolist() == [headed.start]
    with pytest.raises(InputError, match="the prompt has no tokens"):
        bare.encode("")


def test_windows_without_a_start_token_do_not_hold_the_files_they_come_of(model):
    tokens = np.arange(20, dtype=np.int32)
    for start_token in (True, False):
        encoder = tokenisers.WindowEncoder.load(model, 10, start_token)
        assert not np.shares_memory(encoder.window(tokens, 0), tokens)
