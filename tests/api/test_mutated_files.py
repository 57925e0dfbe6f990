"""Thousands of adapter files that were damaged or made up, through the whole of an upload: each is refused by a problem
document, or holds the very tensors of the true file; and the service goes on as if none had come."""

import json
from collections.abc import Callable, Iterator
from random import Random
from resource import RUSAGE_SELF, getrusage
from typing import Any

import pytest
import torch

from service.adapters.file import MANIFEST_KEY, read_header, read_tensors, write_adapter
from service.adapters.manifest import Input
from service.engine.base_model import BaseModel
from tests.adapters.forge import put_together, take_apart, with_header, with_manifest
from tests.api.harness import Harness, harness
from tests.tiny import make_adapter

MANY, FEW = 300, 40  # of each way to damage a file: in all over 3,000, and over 400 of them with each change
MAX_GROWTH = 200  # MB of the process, whatever came; one file has 6 kB
PATHS = ("../../etc/passwd", "..\\..\\windows", "/etc/shadow", "a/../../b", "\0", "\ud800", "", "é" * 300)

Mutate = Callable[[bytes, Random], bytes]


def flip_bit(data: bytes, random: Random) -> bytes:
    place, bit = random.randrange(len(data)), random.randrange(8)
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


def flip_bit_of_a_tensor(data: bytes, random: Random) -> bytes:
    start = 8 + int.from_bytes(data[:8], "little")
    return data[:start] + flip_bit(data[start:], random)


def flip_bits_of_the_header(data: bytes, random: Random) -> bytes:
    end = 8 + int.from_bytes(data[:8], "little")
    head = data[:end]
    for _ in range(random.randint(1, 5)):
        head = flip_bit(head, random)
    return head + data[end:]


def cut_or_lengthen(data: bytes, random: Random) -> bytes:
    if random.random() < 0.2:
        return data + random.randbytes(random.randint(1, 100))
    return data[: random.randrange(len(data))]


def move_bytes(data: bytes, random: Random) -> bytes:
    """A piece of the file takes the place of another."""
    size = random.randint(1, 400)
    source, target = (random.randrange(len(data) - size) for _ in range(2))
    return data[:target] + data[source : source + size] + data[target + size :]


def with_entries(change: Callable[[dict[str, Any], Random], object]) -> Mutate:
    """A mutation of what the header says of tensors."""

    def mutate(data: bytes, random: Random) -> bytes:
        header, payload = take_apart(data)
        metadata = header.pop("__metadata__")
        change(header, random)
        return put_together({"__metadata__": metadata, **header}, payload)

    return mutate


def rename(entries: dict[str, Any], random: Random) -> None:
    old = random.choice(list(entries))
    new = random.choice([old.upper(), old + "x", old.replace("0", "7"), old[1:], random.choice(PATHS)])
    entries[new] = entries.pop(old)


def exchange(entries: dict[str, Any], random: Random) -> None:
    """Two tensors of one shape under each other's names: nothing but their numbers tells."""
    one = random.choice(list(entries))
    like = [name for name, entry in entries.items() if entry["shape"] == entries[one]["shape"] and name != one]
    if like:
        other = random.choice(like)
        entries[one], entries[other] = entries[other], entries[one]


def leave_out(entries: dict[str, Any], random: Random) -> None:
    del entries[random.choice(list(entries))]


def lie(entries: dict[str, Any], random: Random) -> None:
    entry = random.choice(list(entries.values()))
    huge: list[Any] = [2**62, 2**63, 10**30, 2**31, -1, 1.5, True, None, "9", [], {}]
    lies: list[tuple[str, Any]] = [
        ("dtype", random.choice(["F32", "BF16", "F64", "I8", "U8", "F8_E4M3", "", None, [], {"F16": 1}])),
        ("shape", [random.choice(huge) for _ in range(random.randint(0, 6))]),
        ("shape", [*entry["shape"][::-1], 1]),
        ("shape", [*entry["shape"], random.choice([0, 2, 2**40])]),
        ("data_offsets", [random.choice([0, *huge]) for _ in range(random.randint(0, 3))]),
        ("data_offsets", [offset + random.choice([-2, 2, 64]) for offset in entry["data_offsets"]]),
        (random.choice(["extra", "shape "]), 1),
    ]
    name, value = random.choice(lies)
    entry[name] = value


def double(data: bytes, random: Random) -> bytes:
    """A tensor, or a part of the header, named twice in the JSON itself."""
    header, payload = take_apart(data)
    name = random.choice(list(header))
    text = json.dumps(header)
    return with_header(f"{{{json.dumps(name)}: {json.dumps(header[name])}, {text[1:]}".encode(), payload)


def made_up_header(data: bytes, random: Random) -> bytes:
    """Deep, long or crowded JSON, of up to eight megabytes."""
    size = random.choice([10, 1000, 100_000, 2_000_000])
    opened = random.choice(["[", '{"a":', '{"__metadata__":{"rootstock":', "[[],", '"a",', "1,", '{"a":[1.5,'])
    text = (opened * size)[: 8 * 1024 * 1024]
    if random.random() < 0.5:
        text = json.dumps({"__metadata__": {MANIFEST_KEY: text}})[: 8 * 1024 * 1024]
    if random.random() < 0.3:
        text = '{"a": [' + "1," * min(size, 1_000_000) + "1]}"
    return with_header(text.encode(), data[:100])


def other_manifest(data: bytes, random: Random) -> bytes:
    """The seal stays, the manifest does not."""
    header, payload = take_apart(data)
    manifest = json.loads(header["__metadata__"][MANIFEST_KEY])
    values: list[Any] = [
        None,
        -1,
        2**70,
        1e300,
        "",
        "x" * 10_000,
        "\ud800",
        [],
        {},
        [[]] * 1000,
        True,
        "../../x",
        ["a", "b"],
    ]
    place: Any = manifest
    while isinstance(place, dict | list) and place:
        key = random.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if not isinstance(place[key], dict | list) or random.random() < 0.4:
            place[key] = random.choice(values)
            break
        place = place[key]
    header["__metadata__"][MANIFEST_KEY] = json.dumps(manifest)
    return put_together(header, payload)


def write_anew(data: bytes, random: Random) -> bytes:
    """A whole and sealed file with one tensor that is wrong."""
    header = read_header(data)
    tensors = {name: tensor.float() for name, tensor in read_tensors(data, header).items()}
    name = random.choice([name for name, tensor in tensors.items() if tensor.dim() == 2])
    tensor = tensors[name]
    changed = random.choice([-tensor, tensor.roll(1, 0), torch.full_like(tensor, torch.nan), 1e4 * tensor])
    return write_adapter(header.manifest, tensors | {name: changed})


WAYS: dict[str, Mutate] = {
    "a bit": flip_bit,
    "a bit of a tensor": flip_bit_of_a_tensor,
    "bits of the header": flip_bits_of_the_header,
    "cut or lengthened": cut_or_lengthen,
    "bytes moved": move_bytes,
    "renamed": with_entries(rename),
    "exchanged": with_entries(exchange),
    "left out": with_entries(leave_out),
    "lied about": with_entries(lie),
    "doubled": double,
    "made up": made_up_header,
    "another manifest": other_manifest,
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_base: BaseModel) -> Iterator[Harness]:
    with harness(tmp_path_factory.mktemp("mutated") / "store", tiny_base) as service:
        service.upload("mood", make_adapter(tiny_base, seed=1))
        yield service


@pytest.fixture(scope="module")
def whole(tiny_base: BaseModel) -> bytes:
    texts = ("the film was good", "never again!", "a very large dog and one red book", "rain", "I hate this place")
    return make_adapter(tiny_base, seed=3, golden=[Input(text=text) for text in texts])


def damage(service: Harness, whole: bytes, way: str, count: int) -> int:
    """Uploads `count` mutations; how many were refused."""
    random, true, refused = Random(way), read_tensors(whole, read_header(whole)), 0
    before, held = service.state(), getrusage(RUSAGE_SELF).ru_maxrss
    for number in range(count):
        data = WAYS[way](whole, random)
        response = service.put("mood", data, activate=False)
        if response.status_code in (200, 201):  # nothing that matters was hit
            found = read_tensors(data, read_header(data))
            assert found.keys() == true.keys()
            assert all(torch.equal(found[name], tensor) for name, tensor in true.items()), (way, number)
            assert response.status_code == 200 or data != whole
            service.http.delete(f"/adapters/mood/versions/{response.json()['version']}")
        else:
            problem = response.json()
            assert (response.status_code, problem["code"]) == (422, "bad_adapter"), (way, number, problem)
            assert problem["step"]
            refused += 1
    after = service.state()
    assert all(after[part] == before[part] for part in ("tasks", "answers"))
    assert sorted(after["files"]) == sorted(before["files"])
    assert after["versions"] == before["versions"]
    assert (getrusage(RUSAGE_SELF).ru_maxrss - held) / 1024 < MAX_GROWTH
    return refused


@pytest.mark.parametrize("way", WAYS)
def test_damage_is_refused_or_harmless(service: Harness, whole: bytes, way: str) -> None:
    assert damage(service, whole, way, FEW) >= FEW / 2


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_thousands_of_damaged_files_are_refused_or_harmless(service: Harness, whole: bytes, way: str) -> None:
    assert damage(service, whole, way, MANY) >= MANY / 2


def flip_bit_without_a_seal(data: bytes, random: Random) -> bytes:
    return flip_bit_of_a_tensor(with_manifest(data), random)


@pytest.mark.parametrize("mutate", [flip_bit_without_a_seal, write_anew])
def test_damage_that_no_seal_shows_and_that_matters_is_found_by_the_golden_examples(
    service: Harness, whole: bytes, mutate: Mutate
) -> None:
    """What is taken answers its examples as its trainer saw them, within the tolerance."""
    random, taken = Random(0), 0
    golden = read_header(whole).manifest.golden
    for _ in range(FEW):
        response = service.put("unsealed", mutate(whole, random))
        if response.status_code in (200, 201):
            taken += 1
            for one in golden:
                [answer] = service.answers("unsealed", one.input.text)
                scores = {score["label"]: score["score"] for score in answer["scores"]}
                assert [scores["negative"], scores["positive"]] == pytest.approx(one.outputs, abs=0.0201)
        else:
            assert response.json()["step"] in ("golden", "values", "outputs")
    assert 0 < taken < FEW
    service.http.delete("/adapters/unsealed")


@pytest.mark.parametrize("name", PATHS)
def test_path_tricks_in_names_lead_nowhere(service: Harness, whole: bytes, name: str) -> None:
    header, payload = take_apart(whole)
    header[name] = header.pop("head.bias")
    response = service.put("mood", put_together(header, payload))
    assert (response.status_code, response.json()["step"]) == (422, "tensors")
    response = service.put("mood", with_manifest(whole, task=name or "/"))
    assert (response.status_code, response.json()["step"]) == (422, "manifest")
    assert {path.parent for path in service.store.parent.rglob("*")} <= {service.store.parent, service.store}
