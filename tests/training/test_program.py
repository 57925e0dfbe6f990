"""`rootstock train` and `evaluate` say what they chose, left out and doubt, and refuse early what cannot end well."""

import json
import re
import sys
from io import StringIO
from pathlib import Path

import pytest
import torch

from service.adapters.methods import Houlsby
from service.cli.progress import Bar
from service.engine import native
from service.engine.base_model import BaseModel
from service.errors import BadBase
from service.training.plan import Plan, read_data
from service.training.precision import training_dtype
from service.training.recipe import Recipe
from service.training.run import run as train_plan
from service.training.trainer import Progress
from tests.test_cli import assert_sentence, output, run, train
from tests.tiny import make_adapter
from tests.training.toys import sentiment, where, write_csv, write_jsonl

QUICK = ("--task", "x", "--method", "head", "--epochs", 1)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "training.csv", sentiment(60, 1))


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("No Name", "'No Name' is no task name: small letters, digits, .*; a letter or digit at both ends; at most 64"),
        ("embedding", "embedding is answered by the bare base"),
    ],
)
def test_a_name_that_no_task_may_have_is_refused_before_anything_is_read(data: Path, name: str, cause: str) -> None:
    data.write_text("no data")
    assert_sentence(run("train", data, "--task", name, "--base-model", "/none"), f"--task: {cause}")


@pytest.mark.parametrize(
    "options",
    [
        ("--seed", "100000000000000000000"),
        ("--seed", "-1"),
        ("--learning-rate", "nan"),
        ("--learning-rate", "inf"),
        ("--method", "lora", "--alpha", "nan"),
        ("--init-scale", "nan"),
    ],
)
def test_a_number_that_is_none_is_a_wrong_call(data: Path, options: tuple[str, ...]) -> None:
    result = run("train", data, "--task", "x", *options)
    assert result.exit_code == 2
    assert f"Invalid value for '{options[-2]}'" in result.output


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ('{"text": "x"}\n' * 65, ": 65 inputs; a file keeps 1 to 64"),
        ("", ": 0 inputs"),
        (json.dumps({"text": "x" * 9_000_000}), ": larger than an adapter's header"),
    ],
    ids=["many", "none", "large"],
)
def test_golden_examples_that_no_file_can_keep_are_refused_before_the_training(
    tmp_path: Path, data: Path, content: str, cause: str
) -> None:
    golden = tmp_path / "golden.jsonl"
    golden.write_text(content)
    result = run("train", data, "--task", "x", "--base-model", "/none", "--golden", golden)
    assert_sentence(result, re.escape(f"{golden}{cause}"))


def test_a_file_that_no_service_could_read_is_not_written(
    tmp_path: Path, tiny_folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden, file = tmp_path / "golden.jsonl", tmp_path / "x-1.safetensors"
    golden.write_text(json.dumps({"text": "cat " * 5000}))
    monkeypatch.setattr("service.adapters.file.MAX_HEADER_BYTES", 10_000)
    result = train(tiny_folder, data, *QUICK, "--golden", golden, "--out", tmp_path)
    assert_sentence(result, f"{file}: the header claims [0-9]+ bytes; at most 10000 are read")
    assert not file.exists()


def test_what_is_doubtful_about_the_data_is_said(tmp_path: Path, tiny_folder: Path) -> None:
    rows = [f"good {n},Pos\nbad {n},neg\n" for n in range(20)]
    data = tmp_path / "data.csv"
    data.write_text("text,label\n" + "".join(rows) + "good 3,Pos\nbad 4,Pos\ngood 5,pos\ngreat,pos\n")
    lines = train(tiny_folder, data, *QUICK, "--out", tmp_path).stderr.splitlines()
    assert "3 of 44 rows are copies of others; inputs with contradicting labels: 2" in lines
    assert "labels that differ only by case are taken for different ones: Pos and pos" in lines


def test_clean_data_are_not_doubted(tmp_path: Path, tiny_folder: Path, data: Path) -> None:
    said = train(tiny_folder, data, *QUICK, "--out", tmp_path).stderr
    assert [line.split(":")[0] for line in said.splitlines()] == ["classification", "epoch 1"]


def test_rows_that_are_cut_are_counted_in_training_and_in_measuring(tmp_path: Path, tiny_folder: Path) -> None:
    data = tmp_path / "data.csv"
    data.write_text("text,label\n" + "".join(f"{n} {'cat ' * (n % 10)},{'ab'[n % 2]}\n" for n in range(60)))
    result = train(tiny_folder, data, *QUICK, "--max-length", 8, "--validation", data, "--out", tmp_path)
    found = re.search(
        r"(\d+) of 60 training rows are longer than what is read, and cut \(--max-length\)\n", result.stderr
    )
    assert found
    assert int(found[1]) > 10
    measured = run("evaluate", tmp_path / "x-1.safetensors", data, "--base-model", tiny_folder)
    assert f"{found[1]} of 60 inputs are longer than what is read, and cut\n" in measured.stderr
    assert "cut" not in train(tiny_folder, data, *QUICK, "--out", tmp_path).stderr


def test_passages_are_read_in_windows_and_not_cut(tmp_path: Path, tiny_folder: Path) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", "answer", where(40, 1))
    result = train(tiny_folder, data, *QUICK, "--max-length", 8, "--out", tmp_path)
    assert result.exit_code == 0
    assert "cut" not in result.stderr


def test_more_tokens_than_the_base_reads_are_refused(tmp_path: Path, tiny_folder: Path, data: Path) -> None:
    result = train(tiny_folder, data, *QUICK, "--max-length", 65, "--out", tmp_path)
    assert_sentence(result, "--max-length 65 is too long: .* reads 64 tokens at most")


def test_a_head_alone_has_no_layers(data: Path) -> None:
    result = run("train", data, *QUICK, "--layer", 1)
    assert (result.exit_code, "method head without --norms has no --layer" in result.output) == (2, True)


def test_a_second_column_can_be_switched_off(tmp_path: Path, tiny_folder: Path, data: Path) -> None:
    pairs = write_csv(tmp_path / "pairs.csv", sentiment(60, 1, pair=True))
    assert train(tiny_folder, pairs, *QUICK, "--text", "text_pair", "--pair", "", "--out", tmp_path).exit_code == 0
    assert "x (classification, text)" in output("inspect", tmp_path / "x-1.safetensors")
    named = ("--base-model", tiny_folder, "--text", "text_pair")
    assert "accuracy" in output("evaluate", tmp_path / "x-1.safetensors", pairs, *named, "--pair", "")
    assert_sentence(
        run("evaluate", tmp_path / "x-1.safetensors", pairs, *named), "pairs.csv:2: the task reads one text"
    )
    for command in ("train", "evaluate"):
        assert '"" if there is none' in " ".join(output(command, "--help").split())


@pytest.mark.parametrize("command", ["inspect", "evaluate"])
def test_what_is_no_adapter_is_named(tmp_path: Path, tiny_folder: Path, data: Path, command: str) -> None:
    more = (data, "--base-model", tiny_folder) if command == "evaluate" else ()
    assert_sentence(run(command, data, *more), f"{data}: the header claims")


def test_an_adapter_of_another_base_is_named(
    tmp_path: Path, data: Path, tiny_base: BaseModel, real_base: BaseModel
) -> None:
    file = tmp_path / "adapter.safetensors"
    file.write_bytes(make_adapter(tiny_base))
    assert_sentence(run("evaluate", file, data), f"{file}: manifest: the adapter was trained on base ")


def test_a_run_that_diverged_beside_others_is_told(tmp_path: Path, tiny_folder: Path, data: Path) -> None:
    options = ("--learning-rate", "1e38", "--seed", 4, "--out", tmp_path)
    result = train(tiny_folder, data, "--task", "x", "--bottleneck", 4, *options)
    assert "seed 4 at learning rate 1e+38: nothing was learned\n" in result.stderr
    assert "validation (epoch" in result.stdout


def test_the_page_of_full_fine_tuning_lies_beside_the_adapters(tmp_path: Path, tiny_folder: Path, data: Path) -> None:
    train(tiny_folder, data, "--task", "x", "--bottleneck", 4, "--epochs", 1, "--out", tmp_path)
    page = (tmp_path / "x-report.html").read_text()
    result = train(tiny_folder, data, "--task", "x", "--method", "full", "--epochs", 1, "--out", tmp_path)
    assert f"wrote {tmp_path / 'x-full-report.html'}\n" in result.stdout
    assert "method full" in (tmp_path / "x-full-report.html").read_text()
    assert (tmp_path / "x-report.html").read_text() == page


INT16 = native.available("int16")


@pytest.mark.parametrize(
    ("processor", "int16", "dtype", "said"),
    [
        ({"avx512_bf16": True}, False, torch.bfloat16, "precision: bfloat16, which this processor multiplies itself"),
        ({"amx_bf16": True}, True, torch.bfloat16, "precision: bfloat16, which this processor multiplies itself"),
        pytest.param(
            {"avx512_vnni": True}, True, torch.int16,
            "precision: int16, which this processor multiplies faster than float32, and sums exactly",
            marks=pytest.mark.skipif(not INT16, reason="no int16 on this processor"),
        ),
        ({}, False, torch.float32, "precision: float32, as this processor has no bfloat16 that is faster"),
    ],
)  # fmt: skip
def test_the_precision_is_the_processors_and_is_said(
    tmp_path: Path,
    tiny_folder: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    processor: dict[str, bool],
    int16: bool,
    dtype: torch.dtype,
    said: str,
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: processor)
    monkeypatch.setattr(native, "available", lambda precision: int16)
    report = tmp_path / "report.json"
    options = ("--task", "x", "--bottleneck", 4, "--epochs", 1, "--out", tmp_path, "--report", report)
    result = train(tiny_folder, data, *options, "--dtype", "auto")
    assert f"{said} (--dtype)\n" in result.stderr
    assert json.loads(report.read_text())["recipe"]["dtype"] == str(dtype).removeprefix("torch.")
    assert "precision" not in train(tiny_folder, data, *QUICK, "--out", tmp_path, "--dtype", "auto").stderr


def test_integers_are_for_a_base_that_stays_and_has_their_sizes(
    data: Path, tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "available", lambda precision: precision == "int16")
    monkeypatch.setattr("torch.cpu.get_capabilities", dict)
    result = run("train", data, "--task", "x", "--method", "full", "--base-model", "/none", "--dtype", "int16")
    assert result.exit_code == 2
    assert "--dtype int16 is for a base that stays as it is" in result.output
    with pytest.raises(ValueError, match="a base that stays as it is"):
        Recipe(full=True, dtype=torch.int16)
    assert training_dtype("auto", tiny_base.weights, full=True) == torch.float32
    monkeypatch.setattr(native, "fits", lambda weights: False)
    assert training_dtype("auto", tiny_base.weights, full=False) == torch.float32
    with pytest.raises(BadBase, match="int16 needs sizes that are multiples of 16"):
        training_dtype("int16", tiny_base.weights, full=False)
    monkeypatch.setattr(native, "available", lambda precision: False)
    with pytest.raises(BadBase, match="int16 needs a processor with AVX-512 VNNI, or AVX2"):
        training_dtype("int16", tiny_base.weights, full=False)


def _cut(monkeypatch: pytest.MonkeyPatch, epoch: int, whole: bool) -> None:
    """Somebody types Ctrl-C within an epoch or after it."""
    show = Bar.show

    def cut(bar: Bar, run: int, runs: int, progress: Progress) -> None:
        show(bar, run, runs, progress)
        if progress.epoch == epoch and (progress.value is not None) == whole:
            raise KeyboardInterrupt

    monkeypatch.setattr(Bar, "show", cut)


def test_a_training_that_is_cut_names_resume_and_resume_says_from_where_it_goes_on(
    tmp_path: Path, tiny_folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--task", "x", "--out", tmp_path, "--bottleneck", 4)
    with monkeypatch.context() as patch:
        _cut(patch, 1, whole=False)
        result = train(tiny_folder, data, *options)
        assert result.exit_code == 130
        assert result.stderr.splitlines()[-1].endswith("with --resume would begin anew: no epoch is whole yet")
    with monkeypatch.context() as patch:
        _cut(patch, 2, whole=False)
        result = train(tiny_folder, data, *options, "--resume")
        assert "no checkpoint: begins anew\n" in result.stderr
        assert result.exit_code == 130
        assert result.stderr.splitlines()[-1].endswith("with --resume goes on after the last whole epoch")
    with monkeypatch.context() as patch:
        _cut(patch, 2, whole=False)
        result = train(tiny_folder, data, *options, "--resume")
        assert "goes on from epoch 2\n" in result.stderr
        assert result.stderr.splitlines()[-1].endswith("with --resume goes on after the last whole epoch")
    result = train(tiny_folder, data, *options, "--resume")
    assert result.exit_code == 0
    assert "goes on from epoch 2\n" in result.stderr
    assert "anew" not in train(tiny_folder, data, *options).stderr


def test_of_several_runs_the_one_that_was_cut_is_named(
    tmp_path: Path, tiny_folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--task", "x", "--method", "head", "--out", tmp_path, "--seed", 1, "--seed", 2)

    def cut(bar: Bar, run: int, runs: int, progress: Progress) -> None:
        if run == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Bar, "show", cut)
        train(tiny_folder, data, *options)
    assert "goes on from run 2 of 2, epoch 1\n" in train(tiny_folder, data, *options, "--resume").stderr


def test_ctrl_c_before_the_training_ends_alike(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(name: str) -> BaseModel:
        raise KeyboardInterrupt

    monkeypatch.setattr("service.engine.base_model.load_base", stop)
    result = run("train", data, *QUICK)
    assert result.exit_code == 130
    assert "--resume" in result.stderr.splitlines()[-1]


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def _bar(monkeypatch: pytest.MonkeyPatch, examples: int, epochs: int, resumed: bool = False) -> Bar:
    monkeypatch.setattr(sys, "stderr", Terminal())
    return Bar("x", examples, epochs, resumed)


def _step(bar: Bar, step: int, of_epoch: int, epochs: int, run: int = 1, runs: int = 1) -> tuple[int, int]:
    """(what is done, what there is to do) after a step."""
    bar.show(run, runs, Progress(1 + (step - 1) // of_epoch, step, of_epoch * epochs, 0.5, None))
    return bar._bar.n, bar._bar.total


def test_the_bar_counts_examples_and_the_last_batch_of_an_epoch_is_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    bar = _bar(monkeypatch, examples=70, epochs=2)  # three batches of 32, 32 and 6, in any order
    steps = [_step(bar, step, 3, 2) for step in range(1, 7)]
    assert steps == [(23, 140), (46, 140), (70, 140), (93, 140), (116, 140), (140, 140)]
    assert bar._bar.initial == 0


def test_a_bar_that_goes_on_takes_nothing_done_before_for_its_own_work(monkeypatch: pytest.MonkeyPatch) -> None:
    bar = _bar(monkeypatch, examples=70, epochs=3, resumed=True)
    assert _step(bar, 7, 3, 3) == (163, 210)
    assert bar._bar.initial == bar._bar.last_print_n == 140
    assert isinstance(sys.stderr, Terminal)
    assert "goes on from epoch 3\n" in sys.stderr.getvalue()


def test_epochs_that_patience_left_out_are_not_taken_for_work(monkeypatch: pytest.MonkeyPatch) -> None:
    bar = _bar(monkeypatch, examples=70, epochs=3)
    for step in range(1, 4):
        _step(bar, step, 3, 3, runs=2)
    assert _step(bar, 1, 3, 3, run=2, runs=2) == (210 + 23, 420)
    assert bar._bar.initial == 140


def test_a_bar_on_a_terminal_ends_full(tiny_base: BaseModel, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan("x", Houlsby(bottleneck=4), Recipe(epochs=2, batch_size=16, dtype=torch.float32), data, max_length=16)
    found = read_data(plan)
    bar = _bar(monkeypatch, len(found.training), 2)
    train_plan(tiny_base, plan, found, bar.show)
    assert bar._bar.n == bar._bar.total == 2 * len(found.training)
    assert bar.kept
