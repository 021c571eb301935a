"""Damage to byte strings and JSON values, repeatable: all chance comes from the given generator."""

import json
from random import Random
from typing import Any

_INTERESTING = [0, 1, 2, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63]
_VALUES = [None, True, -1, 0, 1, 7, 2**31, 2**63, 1e300, -0.5, "", "x", "ans", "klt", [], {}, [[1]]]
_VALUES += ["é" * 2000, {"a": 1}, "int4", "float16", 10**30, "a\n\x1b[/x]"]


def mutate(data: bytes, random: Random) -> bytes:
    """`data` after one to four changes; a third of all times it is also cut off somewhere."""
    damaged = bytearray(data)
    for _ in range(random.choice([1, 1, 1, 2, 4])):
        random.choice(_CHANGES)(damaged, random)
    if random.random() < 0.3:
        del damaged[random.randrange(len(damaged) + 1) :]
    return bytes(damaged)


def mutate_json(text: bytes, random: Random) -> bytes:
    """JSON text with a value or key exchanged, or damaged as bytes are."""
    if random.random() < 0.3:
        return mutate(text, random)
    value = json.loads(text)
    for _ in range(random.choice([1, 1, 2])):
        value = _exchanged(value, random)
    return json.dumps(value).encode()


def _exchanged(value: Any, random: Random) -> Any:
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = random.choice(sorted(value))
        rest = {k: v for k, v in value.items() if k != key}
        match random.randrange(6):
            case 0:
                return rest
            case 1:
                return rest | {random.choice(["x", "", "codec", "a\n\x1b[/x]"]): value[key]}
            case _:
                return value | {key: _exchanged(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.9:
        place = random.randrange(len(value))
        return [*value[:place], _exchanged(value[place], random), *value[place + 1 :]]
    if isinstance(value, int) and random.random() < 0.5:
        return value + random.choice([-1, 1, 1 << 20, -(1 << 40)])
    return random.choice(_VALUES)


def _flip(data: bytearray, random: Random) -> None:
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _byte(data: bytearray, random: Random) -> None:
    if data:
        data[random.randrange(len(data))] = random.choice(
            [0, 1, 127, 128, 255, random.randrange(256)]
        )


def _integer(data: bytearray, random: Random) -> None:
    size = random.choice([2, 4, 8])
    if len(data) >= size:
        place = random.randrange(len(data) - size + 1)
        value = random.choice([*_INTERESTING, random.randrange(2**16)]) % 2 ** (8 * size)
        data[place : place + size] = value.to_bytes(
            size, random.choice(["little", "little", "big"])
        )


def _remove(data: bytearray, random: Random) -> None:
    start = random.randrange(len(data) + 1)
    del data[start : start + _span(random)]


def _repeat(data: bytearray, random: Random) -> None:
    start = random.randrange(len(data) + 1)
    place = random.randrange(len(data) + 1)
    data[place:place] = data[start : start + _span(random)]


def _insert(data: bytearray, random: Random) -> None:
    place = random.randrange(len(data) + 1)
    data[place:place] = random.randbytes(_span(random))


def _fill(data: bytearray, random: Random) -> None:
    start = random.randrange(len(data) + 1)
    end = min(len(data), start + _span(random))
    data[start:end] = random.choice([b"\0", b"\xff", b"0"]) * (end - start)


def _exchange(data: bytearray, random: Random) -> None:
    first, second = sorted(random.randrange(len(data) + 1) for _ in range(2))
    span = min(_span(random), second - first, len(data) - second)
    one, other = data[first : first + span], data[second : second + span]
    data[first : first + span], data[second : second + span] = other, one


def _span(random: Random) -> int:
    return random.choice([1, 2, 4, 8, random.randrange(1, 200)])


_CHANGES = [_flip, _flip, _byte, _integer, _integer, _remove, _repeat, _insert, _fill, _exchange]
