import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    ResNetConfig,
    ViTConfig,
)

from splitcodec.errors import ArchitectureError, InputError, SettingsError
from splitcodec.splitting import efficientnet_lite
from splitcodec.splitting.changes import back_modules
from splitcodec.splitting.images import SplitImageModel
from splitcodec.splitting.loading import load_split_model
from splitcodec.splitting.model import SplitModel

SMALL = dict(
    hidden_size=16, num_hidden_layers=4, num_attention_heads=4, image_size=32, patch_size=8
)
WIDE = dict(**SMALL, intermediate_size=32, num_labels=5)
RESNET = dict(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 2, 1, 1], num_labels=5)
STAGES = [(1, 3, 1, 1, 8), (1, 3, 2, 6, 8), (2, 5, 2, 6, 16)]
CLASSIFIERS = {
    "vit": ViTConfig(**WIDE),
    "deit": DeiTConfig(**WIDE),
    "dinov2": Dinov2Config(**SMALL, mlp_ratio=2, num_labels=5),
    "dinov2-registers": Dinov2WithRegistersConfig(**SMALL, mlp_ratio=2, num_labels=5),
    "resnet": ResNetConfig(**RESNET, layer_type="basic"),
    "resnet-bottleneck": ResNetConfig(**RESNET, layer_type="bottleneck"),
    "efficientnet-lite": efficientnet_lite.EfficientNetLiteConfig(
        stem=8, stages=STAGES, top=32, num_labels=5
    ),
}
ENCODERS = {"dinov2-encoder": Dinov2Config(**SMALL, mlp_ratio=2), "vit-encoder": ViTConfig(**WIDE)}
PIXELS = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))

efficientnet_lite.register()  # as loading a model does


def build(name):
    torch.manual_seed(0)
    if name == "deit-teacher":
        return DeiTForImageClassificationWithTeacher(CLASSIFIERS["deit"]).eval()
    if name == "deit":
        return DeiTForImageClassification(CLASSIFIERS["deit"]).eval()
    if name in ENCODERS:
        return AutoModel.from_config(ENCODERS[name]).eval()
    return AutoModelForImageClassification.from_config(CLASSIFIERS[name]).eval()


@pytest.fixture(params=[*CLASSIFIERS, *ENCODERS, "deit-teacher"])
def model(request):
    return build(request.param)


def outputs(model):
    found = model(PIXELS)
    return found.logits[:, None] if hasattr(found, "logits") else found.last_hidden_state


@torch.no_grad()
def test_split_forward_equals_unsplit_forward_exactly(model):
    expected = outputs(model)
    split_model = SplitImageModel(model)
    for split in range(1, split_model.blocks + 1):
        representation = split_model.front(PIXELS, split)
        assert representation.ndim == 3
        assert representation.shape[-1] == split_model.channels_at(split)
        assert torch.equal(split_model.back(representation, split), expected)
        for later in range(split, split_model.blocks + 1):
            middle = split_model.middle(representation, split, later)
            assert torch.equal(middle, split_model.front(PIXELS, later))
    assert torch.equal(outputs(model), expected), "splitting changed the model"


@torch.no_grad()
def test_one_pass_gives_every_split(model):
    split_model = SplitImageModel(model)
    splits = list(range(1, split_model.blocks + 1))
    for split, representation in split_model.fronts(PIXELS, splits).items():
        assert torch.equal(representation, split_model.front(PIXELS, split))


def test_gradients_reach_the_representation(model):
    split_model = SplitImageModel(model)
    representation = split_model.front(PIXELS, 2).detach().requires_grad_()
    split_model.back(representation, 2).logsumexp(-1).sum().backward()
    assert representation.grad.abs().sum() > 0


def test_front_and_back_have_all_weights_between_them(model):
    split_model = SplitImageModel(model)
    behind = {p for module in back_modules(split_model, 2) for p in module.parameters()}
    model.zero_grad()
    split_model.front(PIXELS, 2).sum().backward()
    before = {p for p in model.parameters() if p.grad is not None}
    assert not behind & before
    unused = {name for name, p in model.named_parameters() if p not in behind | before}
    assert unused <= {"embeddings.mask_token", "pooler.dense.weight", "pooler.dense.bias"} | {
        f"{prefix}.embeddings.mask_token" for prefix in ("dinov2", "dinov2_with_registers")
    }


@torch.no_grad()
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_feature_maps_are_cut_into_patches(patch):
    model = build("resnet")
    split_model = SplitImageModel(model, patch)
    (feature_map,) = model.resnet(PIXELS[:1], output_hidden_states=True).hidden_states[1]
    tokens = split_model.front(PIXELS[:1], 1)[0]
    channels, side = 8, 8
    assert tokens.shape == ((side // patch) ** 2, channels * patch**2)
    second = feature_map[:, :patch, patch : 2 * patch] if patch < side else None
    assert torch.equal(tokens[1], second.flatten())
    assert torch.equal(split_model.back(tokens[None], 1)[:, 0], model(PIXELS[:1]).logits)


def test_patches_that_do_not_fit_are_refused():
    with pytest.raises(SettingsError, match=r"4 × 4.*patch, 3"):
        SplitImageModel(build("resnet"), 3).front(PIXELS, 2)


def test_a_classifier_predicts_once_an_image_and_an_encoder_once_a_token():
    mask = torch.ones(2, 17, dtype=torch.bool)
    labels = torch.tensor([3, -1])[:, None].expand(2, 17)
    classifier, encoder = (SplitImageModel(build(name)) for name in ("vit", "vit-encoder"))
    assert classifier.predicts == "labels"
    assert encoder.predicts == "features"
    assert classifier.compared(mask).shape == (2, 1)
    assert classifier.labels(labels, mask).tolist() == [3, -1]
    assert encoder.compared(mask).shape == (2, 17)


@pytest.mark.parametrize("name", ["vit", "efficientnet-lite", "dinov2-encoder"])
@torch.no_grad()
def test_what_a_directory_holds_is_loaded(name, tmp_path):
    model = build(name)
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError):
        load_split_model(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    loaded = load_split_model(tmp_path, patch=2)
    assert isinstance(loaded, SplitImageModel)
    assert loaded.patch == 2
    expected = outputs(model)
    loaded.patch = 1
    assert torch.equal(loaded.back(loaded.front(PIXELS, 1), 1), expected)


def test_encoders_of_feature_maps_are_refused():
    encoder = AutoModel.from_config(CLASSIFIERS["resnet"])
    with pytest.raises(ArchitectureError, match="choose a classifier"):
        SplitImageModel(encoder)


def test_text_is_not_for_image_models():
    with pytest.raises(InputError, match="reads images"):
        SplitImageModel(build("vit")).front(torch.zeros(1, 5, dtype=torch.long), 1)
    assert issubclass(SplitImageModel, SplitModel)
