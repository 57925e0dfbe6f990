"""An adapter file with golden examples: what the very weights that it holds answer to a few inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from service.adapters.file import write_adapter
from service.adapters.manifest import MAX_OUTPUTS, Golden, Input, Manifest
from service.engine.arranging import load_resident
from service.engine.base_model import BaseModel
from service.engine.engine import Engine, Row
from service.tasks import Given, read_for


def packed(
    base: BaseModel,
    manifest: Manifest,
    tensors: Mapping[str, Tensor],
    golden: Sequence[Input],
    dtype: torch.dtype = torch.float16,
) -> bytes:
    """The file's bytes; its golden outputs are of the weights as stored, run by the serving engine."""
    base = replace(base, weights=base.weights.to(torch.float32))
    draft = load_resident(base, write_adapter(manifest, tensors, dtype), version=1)
    examples = []
    for given in golden:
        reading = read_for(manifest, base.tokenizer, [Given(given.text, given.text_pair)])[0]
        raw = Engine(base).run([Row(row, draft) for row in reading.rows])
        outputs = draft.kind.decode(manifest, reading, raw).outputs
        if len(outputs) <= MAX_OUTPUTS:
            examples.append(Golden(input=given, outputs=[round(float(value), 5) for value in outputs]))
    return write_adapter(manifest.model_copy(update={"golden": examples}), tensors, dtype)
