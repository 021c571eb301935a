import contextlib
import copy
import io
import re
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, ViTConfig, ViTForImageClassification

from small_world import save_for
from splitcodec import with_codec
from splitcodec.activations.moments import moments_of, sample_tokens
from splitcodec.codecs.hyperparameters import KltHyperparameters
from splitcodec.codecs.klt import fit_klt
from splitcodec.codecs.registry import build_codec
from splitcodec.errors import BitstreamError, InputError, SettingsError

README = Path(__file__).resolve().parents[2] / "README.md"
SPLIT = 2
SMALL_VIT = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)


@pytest.fixture(scope="module")
def model(world):
    return AutoModelForCausalLM.from_pretrained(world.model_directory)


@pytest.fixture(scope="module")
def folders(world, tmp_path_factory):
    """Folders of codecs by name: `fine` loses next to nothing."""
    folder, train = tmp_path_factory.mktemp("codecs"), world.activations(SPLIT, "train")
    sample, identity = sample_tokens(train, 2000, 0), torch.eye(32, dtype=torch.float64)
    made = {name: build_codec(name, 32, {}) for name in ("fp16", "int2")}
    for name, rate_weight in (("fine", 1e-6), ("coarse", 0.1)):
        made[name] = fit_klt(KltHyperparameters(), moments_of(train), identity, sample, rate_weight)
    return {name: save_for(codec, train, folder / name) for name, codec in made.items()}


@pytest.fixture(scope="module")
def batch(world):
    """Tokens and mask: three sequences, two of them shorter."""
    tokens = torch.zeros(3, 40, dtype=torch.int64)
    mask = torch.zeros_like(tokens)
    for row, (sequence, length) in enumerate(
        zip(world.token_table("evaluation").sequences, (40, 17, 30), strict=False)
    ):
        tokens[row, :length] = torch.from_numpy(sequence[:length])
        mask[row, :length] = 1
    return tokens, mask


@pytest.mark.parametrize("name", ["fine", "int2"])
def test_the_codec_stays_where_and_as_it_is(model, folders, batch, name):
    tokens, mask = batch
    coded = with_codec(copy.deepcopy(model), folders[name])
    before = {key: value.clone() for key, value in coded.codec.state_dict().items()}
    moved = coded.to(torch.bfloat16)
    assert moved is coded
    assert {p.dtype for p in coded.model.parameters()} == {torch.bfloat16}
    for key, value in coded.codec.state_dict().items():
        assert value.dtype == before[key].dtype
        assert torch.equal(value, before[key])
    streams, lengths = coded.send(tokens, mask)
    assert coded.receive(streams, lengths).isfinite().all()


def test_a_fine_codec_leaves_the_logits_as_they_were(model, folders, batch):
    tokens, mask = batch
    output = with_codec(model, folders["fine"])(tokens, mask)
    expected = model(tokens, attention_mask=mask).logits
    kept = mask.bool()
    torch.testing.assert_close(output.logits[kept], expected[kept], rtol=0.02, atol=0.02)
    assert (output.logits[~kept] == 0).all()
    coarse = with_codec(model, folders["coarse"])(tokens, mask)
    assert (coarse.logits - expected)[kept].abs().mean() > 0.02
    assert (coarse.bits < output.bits / 2).all()


def test_bits_are_those_of_the_bytes(model, folders, batch):
    tokens, mask = batch
    coded = with_codec(model, folders["fine"])
    output = coded(tokens, mask)
    streams, lengths = coded.send(tokens, mask)
    assert output.bits.tolist() == [8 * len(stream) for stream in streams]
    assert output.tokens.tolist() == lengths.tolist() == [40, 17, 30]
    received = coded.receive(streams, lengths)
    for row, length in enumerate(lengths):
        assert torch.equal(received[row, :length], output.logits[row, :length])
    with pytest.raises(BitstreamError):
        coded.receive(streams[::-1], lengths)
    raw = with_codec(model, folders["fp16"], coder="raw")(tokens, mask)
    assert raw.bits.tolist() == [16 * 32 * length for length in (40, 17, 30)]


def test_the_estimate_is_near_the_bytes(model, folders, batch):
    tokens, mask = batch
    real = with_codec(model, folders["fine"])(tokens, mask)
    estimated = with_codec(model, folders["fine"], estimate=True)(tokens, mask)
    torch.testing.assert_close(estimated.logits, real.logits, rtol=1e-3, atol=1e-3)
    # sequences are short here: checksum and coder cost them eight bytes each
    assert estimated.bits.sum().item() == pytest.approx(real.bits.sum().item(), rel=0.05)


def test_padding_on_the_left_changes_nothing(model, folders, batch):
    tokens, mask = batch
    coded = with_codec(model, folders["fine"])
    right = coded(tokens, mask)
    flipped = [
        torch.stack([part.roll(40 - n) for part, n in zip(whole, (40, 17, 30), strict=True)])
        for whole in (tokens, mask)
    ]
    left = coded(*flipped)
    assert torch.equal(left.bits, right.bits)
    assert torch.equal(left.logits[1, -17:], right.logits[1, :17])
    assert (left.logits[1, :-17] == 0).all()


def test_the_loss_is_that_of_transformers(model, folders, batch):
    tokens, mask = batch
    labels = tokens.masked_fill(~mask.bool(), -100)
    own = with_codec(model, folders["fine"])(tokens, mask, labels).loss
    expected = model(tokens, attention_mask=mask, labels=labels).loss
    assert own.item() == pytest.approx(expected.item(), abs=0.01)


def test_the_last_logits_alone(model, folders, batch):
    tokens, mask = batch
    coded, labels = with_codec(model, folders["fine"]), tokens.masked_fill(~batch[1].bool(), -100)
    whole, last = coded(tokens, mask), coded(tokens, mask, labels, logits_to_keep=12)
    torch.testing.assert_close(last.logits, whole.logits[:, -12:])
    assert torch.equal(last.bits, whole.bits)
    expected = functional.cross_entropy(whole.logits[:, -12:-1].mT, labels[:, -11:])
    torch.testing.assert_close(last.loss, expected)


def test_what_does_not_fit_is_refused(world, model, folders, batch, tmp_path):
    train = world.activations(SPLIT, "train")
    for change in ({"split": 9}, {"model_hash": "another"}):
        other = save_for(build_codec("int4", 32, {}), train, tmp_path / "codec", **change)
        with pytest.raises(InputError, match="which this model is not"):
            with_codec(model, other)
    with pytest.raises(InputError, match="ViTForImageClassification reads images"):
        with_codec(ViTForImageClassification(ViTConfig(**SMALL_VIT)), folders["int2"])
    with pytest.raises(SettingsError, match="exceed the model's context"):
        with_codec(model, folders["int2"])(batch[0].repeat(1, 100))
    with pytest.raises(InputError, match="at least one in every sequence"):
        with_codec(model, folders["int2"])(batch[0], torch.zeros_like(batch[1]))


def test_a_model_of_unknown_origin_is_warned_of(model, folders, recwarn, monkeypatch):
    with_codec(model, folders["fine"])
    assert not [warning for warning in recwarn if "cannot be told" in str(warning.message)]
    monkeypatch.setattr(model, "name_or_path", "somewhere/else")
    with pytest.warns(UserWarning, match="only its shape was checked"):
        with_codec(model, folders["fine"])


def test_the_example_of_the_readme(world, folders):
    (code,) = re.findall(r"```python\n(from transformers.*?)```", README.read_text(), re.DOTALL)
    assert len(code.splitlines()) <= 9
    here = code.replace("data/models/smollm2-135m", str(world.model_directory))
    here, found = re.subn(r'"results/[^"]*"', repr(str(folders["fine"])), here)
    assert found == 1
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(here, {})
    assert re.search(r"tensor\(\[\d+\.\d+\]\) bits a token", printed.getvalue())
