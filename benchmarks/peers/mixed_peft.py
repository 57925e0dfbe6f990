"""LoRA by `peft`, its adapters mixed within a batch (`adapter_names`): mixed_peft.py float32|bfloat16"""

import sys

import torch
from peft import LoraConfig, get_peft_model
from protocol import Batch, Contestant, Settings, padded, serve
from transformers import AutoModel


def prepare(settings: Settings) -> Contestant:
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    lora = LoraConfig(
        r=settings["rank"], lora_alpha=2 * settings["rank"], target_modules=settings["targets"], init_lora_weights=False
    )
    names = [f"task-{number}" for number in range(max(settings["tasks"]))]
    model = get_peft_model(AutoModel.from_pretrained(settings["base"], add_pooling_layer=False), lora, names[0])
    for name in names[1:]:
        model.add_adapter(name, lora)
    device = settings.get("device", "cpu")
    model = model.to(device, getattr(torch, sys.argv[1])).eval()

    def mixed(tasks: int):
        @torch.inference_mode()
        def way(batch: Batch):
            ids, mask = (torch.from_numpy(part).to(device) for part in padded(batch))
            used = [names[number % tasks] for number in range(len(batch))]
            hidden = model(input_ids=ids, attention_mask=mask, adapter_names=used).last_hidden_state.float()
            return ((hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)).cpu().numpy()

        return way

    ways = {f"mixed {tasks}": mixed(tasks) for tasks in settings["tasks"]}
    return Contestant(ways, ["torch", "transformers", "peft"])


if __name__ == "__main__":
    serve(prepare)
