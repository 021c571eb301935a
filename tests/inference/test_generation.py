import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig, MistralConfig

from splitcodec.codecs.klt import scaled_identity
from splitcodec.codecs.registry import build_codec
from splitcodec.errors import BitstreamError, SettingsError
from splitcodec.inference.generation import Receiver, Sender, Stopwatch, generate
from splitcodec.splitting.model import SplitModel

SMALL = dict(
    vocab_size=60, hidden_size=16, num_hidden_layers=3, num_attention_heads=4, intermediate_size=32
)
CONFIGS = {
    "llama": LlamaConfig(**SMALL, num_key_value_heads=2),
    "mistral": MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=7),
    "gpt2": GPT2Config(vocab_size=60, n_embd=16, n_layer=3, n_head=4, n_positions=48),
    "gpt_neox": GPTNeoXConfig(**SMALL),
}
CODECS = {
    "klt": ("klt", {}),
    "hyperprior": ("hyperprior", dict(side_channels=3, width=16, heads=2)),
    "direct-access": ("direct-access", dict(side_channels=0, width=16, heads=2)),
    "tokens": ("klt", dict(tokens=True)),
    "int4": ("int4", {}),
}
PROMPT = torch.tensor([0, 7, 31, 2, 44, 9])


def build_model(architecture):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[architecture])
    # With a tied or a small head it would say one word for ever.
    model.get_output_embeddings().weight = torch.nn.Parameter(torch.randn(60, 16))
    return SplitModel(model.requires_grad_(False))


def build(name, model, split=2):
    """A codec for the representation of a model at `split`; it has learnt nothing."""
    kind, hyperparameters = CODECS[name]
    torch.manual_seed(1)
    if kind.startswith("int"):
        codec = build_codec(kind, 16, hyperparameters)
        codec.coder = "zstd"
        return codec
    tokens = torch.randint(0, 60, (8, 40))
    states = model.front(tokens, split).float()
    start = scaled_identity(
        states[:, 1:].mean((0, 1)), states[:, 0].mean(0), states[:, 1:].std((0, 1)), spread=3.0
    )
    vocabulary = 60 if hyperparameters.get("tokens") else 0
    codec = build_codec(kind, 16, hyperparameters, kept=16, vocabulary=vocabulary)
    if codec.sends_tokens:
        start.token_map, start.row_mean = torch.zeros(16, 16), torch.zeros(16)
        start.token_density = codec.token_density
        codec.token_density.count(tokens)
    codec.start_from(start)
    if kind == "klt":
        codec.scale_index.copy_(start.scale_index)
    with torch.no_grad():
        for parameter in getattr(codec, "prediction", [torch.nn.Identity()])[-1].parameters():
            parameter.normal_(0, 0.05)
    codec.update()
    codec.attach(model.embedding)
    return codec.eval()


@torch.no_grad()
def recomputed(model, split, codec, prompt, count):
    """The same without any cache, stream or packet."""
    tokens = prompt[None]
    for _ in range(count):
        length = torch.tensor([tokens.shape[1]])
        states = model.front(tokens, split)
        decoded = codec.decompress(codec.compress(states, length, tokens), length)
        tokens = torch.cat([tokens, model.back(decoded, split)[:, -1:].argmax(-1)], 1)
    return tokens[0, len(prompt) :].tolist()


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("name", CODECS)
def test_generation_equals_full_recomputation_in_one_process(architecture, name):
    model = build_model(architecture)
    codec = build(name, model)
    done = generate(model, 2, codec, PROMPT, 20)
    assert done.tokens == recomputed(model, 2, codec, PROMPT, 20)
    assert len(set(done.tokens)) > 1, "this text shows nothing"
    assert (done.sent, len(done.packets)) == (len(PROMPT) + 19, 20)
    assert done.bits_per_token == 8 * sum(done.packets) / done.sent
    assert set(done.milliseconds_per_token) == {"front", "codec", "back"}


@torch.no_grad()
def with_whole_sequences(model, split, codec, prompt, count):
    """With the model's caches, but what has been sent so far coded anew as one sequence."""
    caches, states, tokens, following = (model.cache(), model.cache(split)), [], prompt, prompt
    for _ in range(count):
        states.append(model.front(following[None], split, caches[0]).float())
        length = torch.tensor([len(tokens)])
        streams = codec.compress(torch.cat(states, 1), length, tokens[None])
        decoded = codec.decompress(streams, length)[:, -len(following) :]
        final = model.final_states(decoded, split, caches[1])
        following = model.head(final[0, -1]).argmax()[None]
        tokens = torch.cat([tokens, following])
    return tokens[len(prompt) :].tolist()


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("name", CODECS)
def test_generation_in_bfloat16(architecture, name):
    """There a cache rounds otherwise than one pass over all tokens does, so both have one."""
    model = build_model(architecture)
    model.model.to(torch.bfloat16)
    codec = build(name, model)
    done = generate(model, 2, codec, PROMPT, 12)
    assert done.tokens == with_whole_sequences(model, 2, codec, PROMPT, 12)


@pytest.mark.parametrize("split", [1, 3])
def test_any_split(split):
    model = build_model("llama")
    codec = build("klt", model, split)
    done = generate(model, split, codec, PROMPT, 8)
    assert done.tokens == recomputed(model, split, codec, PROMPT, 8)


def test_the_codec_matters():
    model = build_model("llama")
    fine, coarse = build("klt", model), build("klt", model)
    coarse.analysis.mul_(0.05)
    coarse.synthesis.mul_(20)
    done = [generate(model, 2, codec, PROMPT, 12) for codec in (fine, coarse)]
    assert done[0].tokens != done[1].tokens
    assert done[0].bits_per_token > done[1].bits_per_token


def test_it_ends_after_a_stop_token():
    model = build_model("llama")
    codec = build("klt", model)
    whole = generate(model, 2, codec, PROMPT, 12).tokens
    stop = whole[4]
    done = generate(model, 2, codec, PROMPT, 12, frozenset([stop]))
    assert done.tokens == whole[: whole.index(stop) + 1]


def test_each_side_runs_each_token_once(monkeypatch):
    model = build_model("llama")
    counts = []
    run = SplitModel._run

    def counted(self, first, last, cache=None, **inputs):
        (given,) = inputs.values()
        counts.append((first, given.shape[1]))
        return run(self, first, last, cache, **inputs)

    monkeypatch.setattr(SplitModel, "_run", counted)
    generate(model, 2, build("int4", model), PROMPT, 4)
    assert counts == [(0, 6), (2, 6)] + [(0, 1), (2, 1)] * 3


@torch.no_grad()
def test_a_lost_packet_is_noticed():
    model = build_model("llama")
    codec, watch = build("klt", model), Stopwatch()
    sender, receiver = Sender(model, 2, codec, watch), Receiver(model, 2, codec, watch)
    receiver.receive(sender.send(PROMPT), len(PROMPT))
    sender.send(torch.tensor([3]))
    with pytest.raises(BitstreamError, match="out of order"):
        receiver.receive(sender.send(torch.tensor([4])), 1)


def test_what_cannot_be_generated_is_refused():
    model = build_model("gpt2")
    codec = build("int4", model)
    with pytest.raises(SettingsError, match="no tokens"):
        generate(model, 2, codec, PROMPT[:0], 4)
    with pytest.raises(SettingsError, match="context of 48"):
        generate(model, 2, codec, PROMPT, 43)
