"""A small language model trained here, on the training partition alone: for experiments in which
everything, the model included, is made from the text.

GPT-2 layout (Radford et al. 2019) or that of Pythia (GPT-NeoX, Black et al. 2022), without
dropout; tokeniser: byte-level BPE (Sennrich et al.
2016, by `tokenizers`). Repeatable, and resumed where a killed run stopped.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, PreTrainedTokenizerFast

from splitcodec.devices import device
from splitcodec.errors import InputError
from splitcodec.files import sha256_of_file
from splitcodec.inputs.models import model_directory, write_identity
from splitcodec.inputs.random_model import START
from splitcodec.inputs.tokens import TokenTable, partition_texts, read_tokens, tokenise
from splitcodec.settings import Partition, TrainedSource
from splitcodec.training.log import Log
from splitcodec.training.loop import BatchLoss, Loop, Phase, recipe_of
from splitcodec.training.weights import autocast, rows_of_batch, weight_groups

_ALL = 2**31 - 1


def pretrain(
    source: TrainedSource,
    documents: Path,
    rule: Partition,
    others: dict[str, Partition],
    checkpoint: Path,
    out: Path,
    log: Log,
) -> None:
    """Make the model directory `out` from the documents of the training partition.

    `rule` names that partition, `others` those that must not share documents with it. All of its
    documents are read, however few sequences of them the partition gives to codecs.
    """
    rule = rule.model_copy(update={"sequences": _ALL})
    with model_directory(out) as made, tempfile.TemporaryDirectory(dir=made.parent) as scratch:
        texts = partition_texts(documents, "train", rule, others)
        tokeniser = train_tokeniser(texts, source.vocabulary)
        model = untrained_model(source, tokeniser)
        tokeniser.save_pretrained(made)
        model.config.save_pretrained(made)
        write_identity(made, source)
        tokens = Path(scratch, "tokens.parquet")
        tokenise(documents, made, "train", rule, others, source.context, True, tokens)
        recipe = recipe_of(source=source.model_dump(), tokens=sha256_of_file(tokens))
        train_model(model, source, read_tokens(tokens), recipe, checkpoint, log)
        log.move_to(made / "training.jsonl")
        model.save_pretrained(made)
        (made / "model.safetensors").chmod(0o644)
        write_identity(made, source)
    checkpoint.unlink(missing_ok=True)


def train_tokeniser(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of `vocabulary` tokens, one of which starts and ends a text.

    Raises InputError when the text is too short for so many.
    """
    tokeniser = Tokenizer(BPE())
    tokeniser.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokeniser.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokeniser.train_from_iterator(texts, trainer)
    if tokeniser.get_vocab_size() != vocabulary:
        raise InputError(
            f"the training text gives a vocabulary of {tokeniser.get_vocab_size()}, not "
            f"{vocabulary}; take more text or lower vocabulary"
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokeniser, bos_token=START, eos_token=START)


def untrained_model(source: TrainedSource, tokeniser: PreTrainedTokenizerFast) -> nn.Module:
    """The model before its first step."""
    ends = dict(bos_token_id=tokeniser.bos_token_id, eos_token_id=tokeniser.eos_token_id)
    if source.architecture == "gpt_neox":
        config = GPTNeoXConfig(
            vocab_size=source.vocabulary,
            hidden_size=source.channels,
            intermediate_size=4 * source.channels,
            num_hidden_layers=source.blocks,
            num_attention_heads=source.heads,
            max_position_embeddings=source.context,
            **ends,
        )
    else:
        config = GPT2Config(
            vocab_size=source.vocabulary,
            n_embd=source.channels,
            n_layer=source.blocks,
            n_head=source.heads,
            n_positions=source.context,
            activation_function="gelu_pytorch_tanh",  # GPT-2's own, in one operation
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            **ends,
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(source.seed)
        return AutoModelForCausalLM.from_config(config)


def train_model(
    model: nn.Module,
    settings: TrainedSource,
    tokens: TokenTable,
    recipe: str,
    checkpoint: Path,
    log: Log,
) -> None:
    """Train all weights of `model` to predict the next token of `tokens`, on a GPU if there is."""
    here = device()
    model.to(here)

    def loss(step: int, batch: int) -> BatchLoss:
        rows = rows_of_batch(settings, len(tokens.sequences), settings.seed, step, batch)
        sequences = [torch.from_numpy(tokens.sequences[row]) for row in rows]
        inputs = nn.utils.rnn.pad_sequence(sequences, batch_first=True).to(here)
        labels = nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=-100)
        with autocast(settings, here):
            logits = model(inputs).logits[:, :-1].float()
        nats = functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten().to(here))
        predicted = sum(len(sequence) - 1 for sequence in sequences)
        return BatchLoss(nats, {"cross_entropy": nats.item()}, predicted)

    phase = Phase(
        "pretraining",
        settings.steps,
        settings.warm_up_steps,
        lambda: weight_groups(model.parameters(), settings),
        loss,
        tokens=settings.sequences * settings.context,
        batches=settings.sequences // settings.batch_sequences,
        gradient_clip=settings.gradient_clip,
        log_every=20,
    )
    Loop(model, [phase], settings.seed, recipe, checkpoint, log).run()
    model.cpu()
