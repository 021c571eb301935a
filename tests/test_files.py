import json

import pytest

from splitcodec.errors import InputError
from splitcodec.files import atomic_path, read_json, write_json, write_sealed_json

DOCUMENT = {"points": [{"rate": 0.1 + 0.2, "name": "λ"}], "by_step": {10: 1.0, 9: 2.0}}


def test_a_sealed_document_reads_as_it_was_written(tmp_path):
    write_sealed_json(tmp_path / "a.json", DOCUMENT)
    assert read_json(tmp_path / "a.json") == json.loads(json.dumps(DOCUMENT))


def test_every_changed_byte_of_a_sealed_document_is_noticed(tmp_path):
    path = tmp_path / "a.json"
    write_sealed_json(path, DOCUMENT)
    expected, content = read_json(path), path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            found = read_json(path)
        except InputError as error:
            assert str(path) in str(error)
        else:  # white space, or the seal's own name
            assert {key: found[key] for key in expected} == expected


def test_indentation_and_order_of_keys_are_free(tmp_path):
    path = tmp_path / "a.json"
    write_sealed_json(path, DOCUMENT)
    document = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(document.items())), indent=7))
    assert read_json(path)["points"] == DOCUMENT["points"]


def test_a_document_without_a_seal_is_read(tmp_path):
    write_json(tmp_path / "a.json", [1, 2])
    assert read_json(tmp_path / "a.json") == [1, 2]


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "a"
    path.write_text("before")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
