"""LoRA by `latefuse`, many tenants in a batch: mixed_latefuse.py float32|bfloat16

Its engine takes batches of one fixed shape: here as many rows as a batch has, and the longest row of the workloads
that it is asked for. It is entered below its tokenizer, with the faster of its two ways to gather adapters.
"""

import sys

import numpy as np
import torch
from latefuse import MultiTenantEmbedder
from protocol import Batch, Contestant, Settings, padded, serve


def prepare(settings: Settings) -> Contestant:
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    batches = [batch for name in settings["asked"] for batch in settings["workloads"][name]]
    length = max(len(row) for batch in batches for row in batch)
    pipeline = MultiTenantEmbedder.from_pretrained(
        settings["base"],
        lora_rank=settings["rank"],
        batch_size=len(batches[0]),
        max_seq_len=length,
        target_modules=settings["targets"],
        device="cpu",
        dtype=getattr(torch, sys.argv[1]),
        assembler="index_select",
        pooling="mean",
    )
    names = [f"task-{number}" for number in range(max(settings["tasks"]))]
    for seed, name in enumerate(names):
        pipeline.register_synthetic(name, seed)
        for up in pipeline.store.get(name).wb.values():
            torch.nn.init.normal_(up, std=0.02)  # as trained ones, not as they begin

    def mixed(tasks: int):
        @torch.inference_mode()
        def way(batch: Batch):
            ids, mask = (torch.from_numpy(widened(part, length)) for part in padded(batch))
            lora = pipeline._assemble_lora([names[number % tasks] for number in range(len(batch))])
            return pipeline.model.encode_pooled(ids, mask, lora, None, True, "mean").float().numpy()

        return way

    ways = {f"mixed {tasks}": mixed(tasks) for tasks in settings["tasks"]}
    return Contestant(ways, ["torch", "transformers", "latefuse"], lambda: {"fixed_length": length})


def widened(part: np.ndarray, length: int) -> np.ndarray:
    return np.pad(part, ((0, 0), (0, length - part.shape[1])))


if __name__ == "__main__":
    serve(prepare)
