"""Bottleneck adapters by the `adapters` library: mixed_adapters.py float32|bfloat16

"mixed N" composes N adapters in one batch (BatchSplit); "switched N" sets the active adapter for each row and runs it
alone. Houlsby's bottlenecks, of the same size as ours; no heads: the mean of the tokens.
"""

import sys
from collections import Counter

import adapters
import adapters.composition as compose
import torch
from protocol import Batch, Contestant, Settings, padded, serve
from transformers import AutoModel


def prepare(settings: Settings) -> Contestant:
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    model = AutoModel.from_pretrained(settings["base"], add_pooling_layer=False)
    adapters.init(model)
    config = adapters.DoubleSeqBnConfig(reduction_factor=model.config.hidden_size / settings["bottleneck"])
    names = [f"task-{number}" for number in range(max(settings["tasks"]))]
    for name in names:
        model.add_adapter(name, config=config)
    for name, parameter in model.named_parameters():
        if ".adapters." in name:
            torch.nn.init.normal_(parameter, std=0.02)  # as trained ones, not as they begin
    device = settings.get("device", "cpu")
    model = model.to(device, getattr(torch, sys.argv[1])).eval()

    def run(batch: Batch):
        ids, mask = (torch.from_numpy(part).to(device) for part in padded(batch))
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        return ((hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)).cpu().numpy()

    def mixed(tasks: int):
        @torch.inference_mode()
        def way(batch: Batch):
            asked = Counter(number % tasks for number in range(len(batch)))
            sizes = [asked[task] for task in sorted(asked)]
            used = [names[task] for task in sorted(asked)]
            model.set_active_adapters(compose.BatchSplit(*used, batch_sizes=sizes) if len(used) > 1 else used[0])
            return run(sorted_by_task(batch, tasks))

        return way

    def switched(tasks: int):
        @torch.inference_mode()
        def way(batch: Batch):
            outputs = []
            for number, row in enumerate(batch):
                model.set_active_adapters(names[number % tasks])
                outputs.append(run([row])[0])
            return outputs

        return way

    ways = {f"mixed {tasks}": mixed(tasks) for tasks in settings["tasks"]}
    ways |= {f"switched {tasks}": switched(tasks) for tasks in settings["tasks"]}
    return Contestant(ways, ["torch", "transformers", "adapters"])


def sorted_by_task(batch: Batch, tasks: int) -> Batch:
    """BatchSplit takes each adapter's rows together."""
    return [batch[number] for number in sorted(range(len(batch)), key=lambda number: number % tasks)]


if __name__ == "__main__":
    serve(prepare)
