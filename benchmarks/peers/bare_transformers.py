"""The bare base by `transformers`, padded, in eager torch: bare_transformers.py float32|bfloat16"""

import sys

import torch
from protocol import Batch, Contestant, Settings, padded, serve
from transformers import AutoModel


def prepare(settings: Settings) -> Contestant:
    torch.set_num_threads(settings["threads"])
    dtype = getattr(torch, sys.argv[1])
    model = AutoModel.from_pretrained(settings["base"], add_pooling_layer=False, dtype=dtype).eval()

    @torch.inference_mode()
    def bare(batch: Batch):
        ids, mask = map(torch.from_numpy, padded(batch))
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        return ((hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)).numpy()

    return Contestant({"bare": bare}, ["torch", "transformers"])


if __name__ == "__main__":
    serve(prepare)
