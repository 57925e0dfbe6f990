"""`rootstock import` and `export`: a folder becomes a file that the service serves, and back."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from service.adapters.file import read_header
from service.adapters.manifest import Manifest
from service.cli import main
from service.engine.arranging import load_resident
from service.engine.base_model import BaseModel
from service.engine.engine import Engine, Row
from tests.adapters.foreign.made import LORA, adapterhub, bottlenecks, head, low_ranks, write
from tests.tiny import read_one


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = adapterhub(tmp_path / "adapter", bottlenecks({0: 4, 1: 4}), saved={"model_name": "someone/elses"})
    head(made, "classification", 2, ["bad", "good"])
    return made


def imported(base: BaseModel, file: Path) -> Manifest:
    """What the file says, if its golden examples hold."""
    data = file.read_bytes()
    manifest, resident = read_header(data).manifest, load_resident(base, data, version=1)
    assert len(manifest.golden) == 4
    for golden in manifest.golden:
        reading = read_one(base, manifest, golden.input.text, golden.input.text_pair)
        raw = Engine(base).run([Row(row, resident) for row in reading.rows])
        outputs = resident.kind.decode(manifest, reading, raw).outputs
        np.testing.assert_allclose(outputs, golden.outputs, atol=1e-4)
    return manifest


def test_import_writes_a_file_that_this_base_serves(
    tiny_base: BaseModel, tiny_folder: Path, tmp_path: Path, folder: Path
) -> None:
    file = tmp_path / "mood-1.safetensors"
    result = run("import", folder, "--task", "mood", "--out", file, "--base-model", tiny_folder)
    assert result.exit_code == 0, result.output
    assert "the adapter was trained on someone/elses, and is taken for" in result.stderr
    manifest = imported(tiny_base, file)
    assert (manifest.task, manifest.labels, manifest.head.pooling) == ("mood", ["bad", "good"], "first")
    assert manifest.description == "Imported from AdapterHub (adapters.1.3.0)."


def test_import_takes_labels_pairs_and_lengths(
    tiny_base: BaseModel, tiny_folder: Path, tmp_path: Path, folder: Path
) -> None:
    file = tmp_path / "pair.safetensors"
    options = ("--labels", "no, yes", "--pair", "--max-length", 32, "--base-model", tiny_folder)
    assert run("import", folder, "--task", "same", "--out", file, *options).exit_code == 0
    manifest = imported(tiny_base, file)
    assert (manifest.labels, manifest.head.pair, manifest.tokenizer.max_length) == (["no", "yes"], True, 32)


def test_import_says_what_is_wrong_and_writes_nothing(tiny_folder: Path, tmp_path: Path, folder: Path) -> None:
    head(folder, "classification", 2, ["bad", "good"], layers=2)
    file = tmp_path / "none.safetensors"
    result = run("import", folder, "--task", "mood", "--out", file, "--base-model", tiny_folder)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {folder}: layers = 2 is not supported: ")
    assert not file.exists()


def test_export_writes_what_import_reads(tiny_base: BaseModel, tiny_folder: Path, tmp_path: Path) -> None:
    modules = [f"encoder.layer.{layer}.attention.self.{part}" for layer in (0, 1) for part in ("query", "value")]
    made = write(tmp_path / "lora", LORA, low_ranks(dict.fromkeys(modules, 4)), "adapter_model.safetensors")
    first, again = tmp_path / "first.safetensors", tmp_path / "again.safetensors"
    options = ("--base-model", tiny_folder)
    assert run("import", made, "--task", "near", "--out", first, "--pooling", "first", *options).exit_code == 0
    assert run("export", first, "--to", "peft", "--out", tmp_path / "out", *options).exit_code == 0
    back = ("--task", "near", "--out", again, "--pooling", "first", *options)
    result = run("import", tmp_path / "out", *back)
    assert result.exit_code == 0, result.output
    assert "was trained on" not in result.stderr  # the manifest's own name
    assert imported(tiny_base, again).golden == imported(tiny_base, first).golden
