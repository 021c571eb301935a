import pytest

from splitcodec.training.sensitivity import measure_sensitivity, save_sensitivity

SPLIT = 2


@pytest.fixture(scope="session")
def material(world, tmp_path_factory):
    """What a codec at split 2 may learn from, as `Material` names it."""
    activations = world.activations(SPLIT, "train")
    matrix = measure_sensitivity(world.model, {SPLIT: activations}, 8, 4, 0)[SPLIT]
    path = tmp_path_factory.mktemp("sensitivity") / "split2.safetensors"
    meaning = {key: activations.metadata[key] for key in ("split", "model_hash")}
    save_sensitivity(path, matrix, meaning)
    return dict(
        sensitivity=path,
        references=world.store(3, "train"),
        validation=world.store(SPLIT, "validation"),
        validation_references=world.store(3, "validation"),
        model=world.model,
    )
