"""The bare base by OpenVINO, from the file that `export_base.py` wrote: bare_openvino.py f32|bf16"""

import sys

import openvino
from protocol import Batch, Contestant, Settings, mean_of, padded, serve


def prepare(settings: Settings) -> Contestant:
    core = openvino.Core()
    wanted = {
        "INFERENCE_PRECISION_HINT": sys.argv[1],
        "INFERENCE_NUM_THREADS": settings["threads"],
        "PERFORMANCE_HINT": "LATENCY",  # all threads on one batch
    }
    model = core.compile_model(f"{settings['cache']}/float32.onnx", "CPU", wanted)
    request = model.create_infer_request()

    def bare(batch: Batch):
        ids, mask = padded(batch)
        hidden = request.infer({"input_ids": ids, "attention_mask": mask})[0]
        return mean_of(hidden, mask)

    precision = model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return Contestant({"bare": bare}, ["openvino"], lambda: {"precision": precision})


if __name__ == "__main__":
    serve(prepare)
