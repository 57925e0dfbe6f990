"""Writes the bare base as ONNX, in float32 and with its linear layers in int8: export_base.py BASE FOLDER

Written by torch's older exporter from the plain attention: that is the pattern which ONNX Runtime fuses by itself when
it loads a model, and of all ways (either exporter, either attention, its offline optimiser before or not) the one that
it ran fastest. int8 is its dynamic quantisation as it comes: a scale a matrix; with one a row, `per_channel`, it
is nearer to float32 and slower. The mean of the tokens is taken outside, by every contestant alike.
"""

import sys
from pathlib import Path

import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import AutoModel


class Hidden(torch.nn.Module):
    """Token vectors alone."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def main() -> None:
    base, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    model = Hidden(AutoModel.from_pretrained(base, add_pooling_layer=False, attn_implementation="eager")).eval()
    example = torch.randint(1000, 2000, (3, 17))
    names = ["input_ids", "attention_mask"]
    torch.onnx.export(
        model,
        (example, torch.ones_like(example)),
        folder / "float32.onnx",
        input_names=names,
        output_names=["hidden"],
        dynamic_axes={name: {0: "rows", 1: "length"} for name in (*names, "hidden")},
        opset_version=17,
        dynamo=False,
    )
    quantize_dynamic(folder / "float32.onnx", folder / "int8.onnx", weight_type=QuantType.QInt8)


if __name__ == "__main__":
    main()
