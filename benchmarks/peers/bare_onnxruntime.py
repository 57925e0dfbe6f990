"""The bare base by ONNX Runtime, from what `export_base.py` wrote: bare_onnxruntime.py float32|int8"""

import sys

import onnxruntime
from protocol import Batch, Contestant, Settings, mean_of, padded, serve


def prepare(settings: Settings) -> Contestant:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings["threads"]
    file = f"{settings['cache']}/{sys.argv[1]}.onnx"
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def bare(batch: Batch):
        ids, mask = padded(batch)
        (hidden,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
        return mean_of(hidden, mask)

    return Contestant({"bare": bare}, ["onnxruntime"])


if __name__ == "__main__":
    serve(prepare)
