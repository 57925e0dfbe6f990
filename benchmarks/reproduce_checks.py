"""What the adapters of `benchmarks/reproduce.py` lose when some are taken out, and whether tasks disturb one another.

    python benchmarks/reproduce_checks.py --data PREPARED --work WORK [--store FOLDER] [--tasks NAME …]

PREPARED is what `benchmarks/data_sets.py` wrote, WORK what `benchmarks/reproduce.py` was given; the adapter files of a
FOLDER are taken instead of those in WORK that the reports are of, where one is named. A task without a file is left
out, and named.

    ablation      for every span of layers, the validation metric of the trained adapters without those of that span;
                  the span's LayerNorms are the base's again, and nothing is retrained (Houlsby et al. 2019, section
                  3.6). Writes `benchmarks/results/reproduce_ablation.json`.
    forgetting    a service with the first tasks is asked, gets all the others over HTTP, and is asked the same again:
                  every answer must have the same bytes. Writes `benchmarks/results/reproduce_forgetting.json`, and
                  fails where one differs.
"""

import argparse
import json
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import torch

from data_sets import DATASETS, DataSet
from reproduce_results import Results, adapter_file
from service.adapters.file import read_header, read_tensors, write_adapter
from service.adapters.methods import Houlsby
from service.client import Client
from service.engine.arranging import load_resident
from service.engine.base_model import BaseModel, load_base
from service.tasks import expected_shapes
from service.training.data import read_examples
from service.training.evaluate import asking, evaluate
from serving import running_service

RESULTS = Path(__file__).parent / "results"
ABLATED = ("paraphrase", "acceptability", "emotion")
FIRST = 3  # tasks that the service has before the others arrive
INPUTS = 48  # asked of each of them
Files = dict[str, list[Path]]  # task → its adapter file for each seed


def adapter_files(work: Path, store: Path | None) -> Files:
    """Every task's adapters, in the order of `DATASETS`; those that are not there yet are said."""
    found, results = Files(), Results.read(RESULTS)
    for dataset in DATASETS:
        if store:
            paths = [path for path in [store / f"{dataset.task}-1.safetensors"] if path.is_file()]
        else:
            found_of = (adapter_file(work, report) for report in results.runs(dataset.task, "houlsby"))
            paths = [path for path in found_of if path is not None]
        if paths:
            found[dataset.task] = paths
        else:
            print(f"{dataset.task}: no adapter file; left out", flush=True)
    return found


def ablation(base: BaseModel, dataset: DataSet, paths: Sequence[Path], data: Path) -> dict[str, Any]:
    """The validation metric without each span of layers; means over the files."""
    validation = data / dataset.task / "validation.jsonl"
    adapters = [path.read_bytes() for path in paths]

    def measure(removed: range) -> list[float]:
        return [_value(base, without(base, adapter, removed), dataset, validation) for adapter in adapters]

    whole = measure(range(0))
    spans = []
    for removed in _spans(base.dims.layers):
        values = measure(removed)
        differences = [value - all_there for value, all_there in zip(values, whole, strict=True)]
        first, last = removed[0], removed[-1]
        spans.append({"first": first, "last": last, "value": mean(values), "difference": mean(differences)})
        print(f"{dataset.task} without layers {first} to {last}: {mean(values):.4f}", flush=True)
    return {"metric": dataset.metric, "files": len(paths), "all": mean(whole), "spans": spans}


def without(base: BaseModel, adapter: bytes, removed: range) -> bytes:
    """The adapter file with nothing left of the layers `removed` but the base's own."""
    manifest, tensors = read_header(adapter).manifest, read_tensors(adapter, read_header(adapter))
    assert isinstance(manifest.method, Houlsby)
    kept = tuple(layer for layer in manifest.method.numbers(base.dims) if layer not in removed)
    method = manifest.method.model_copy(update={"layers": kept})
    manifest = manifest.model_copy(update={"method": method, "golden": []})
    return write_adapter(manifest, {name: tensors[name] for name in expected_shapes(manifest, base.dims)})


def _spans(layers: int) -> Iterator[range]:
    return (range(first, last + 1) for first in range(layers) for last in range(first, layers))


def _value(base: BaseModel, adapter: bytes, dataset: DataSet, examples: Path) -> float:
    resident = load_resident(base, adapter, version=1)
    return evaluate(resident.manifest, examples, asking(base, resident), metric=dataset.metric).value


def forgetting(paths: dict[str, Path], data: Path, threads: int) -> dict[str, Any]:
    """Asks the first tasks before and after the others have arrived."""
    first, later = dict(islice(paths.items(), FIRST)), dict(islice(paths.items(), FIRST, None))
    options = ("--threads", str(threads))
    with TemporaryDirectory() as folder:
        for path in first.values():
            shutil.copy(path, folder)
        with running_service(Path(folder), *options) as service, Client(service.url) as client:
            before = {task: _answers(service.url, path, data, INPUTS) for task, path in first.items()}
            for task, path in later.items():
                client.push(task, path)
                _answers(service.url, path, data, 1)  # the new one is at work, not only stored
            after = {task: _answers(service.url, path, data, INPUTS) for task, path in first.items()}
    return {
        "tasks": list(first),
        "later": list(later),
        "inputs": {task: len(answers) for task, answers in before.items()},
        "different": {
            task: sum(old != new for old, new in zip(before[task], after[task], strict=True)) for task in first
        },
    }


def _answers(url: str, adapter: Path, data: Path, inputs: int) -> list[bytes]:
    """The answers to the first test inputs of an adapter's task as they come over the wire, one after another."""
    manifest = read_header(adapter.read_bytes()).manifest
    examples = read_examples(data / manifest.task / "test.jsonl", kind=manifest.kind)[:inputs]
    names = ("question", "context") if manifest.kind == "answer" else ("text", "text_pair")
    found = []
    with httpx2.Client(base_url=url, timeout=60.0) as http:
        for given in (example.given for example in examples):
            texts = [text for text in given if text is not None]
            answer = http.post(f"/predict/{manifest.task}", json={"inputs": dict(zip(names, texts, strict=False))})
            found.append(answer.raise_for_status().content)
    return found


def machine(threads: int) -> dict[str, Any]:
    """What this runs on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--store", type=Path, help="adapter files to take instead of WORK's")
    known = [dataset.task for dataset in DATASETS]
    parser.add_argument("--tasks", nargs="*", choices=known, default=ABLATED, help="of the ablation")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.results.mkdir(parents=True, exist_ok=True)
    facts, files = machine(options.threads), adapter_files(options.work, options.store)

    ablated = [dataset for dataset in DATASETS if dataset.task in options.tasks and dataset.task in files]
    if ablated:
        base = load_base()
        tasks = {dataset.task: ablation(base, dataset, files[dataset.task], options.data) for dataset in ablated}
        _write(options.results / "reproduce_ablation.json", {"machine": facts, "tasks": tasks})

    if len(files) <= FIRST:
        print(f"forgetting: {len(files)} tasks have a file, more than {FIRST} are needed; not checked")
        return
    result = forgetting({task: paths[0] for task, paths in files.items()}, options.data, options.threads)
    _write(options.results / "reproduce_forgetting.json", {"machine": facts, **result})
    if any(result["different"].values()):
        raise SystemExit(f"answers changed when other tasks arrived: {result['different']}")
    print(f"{sum(result['inputs'].values())} answers are the same after {len(result['later'])} more tasks arrived")


def _write(path: Path, result: dict[str, Any]) -> None:
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"wrote {path}", flush=True)


if __name__ == "__main__":
    main()
