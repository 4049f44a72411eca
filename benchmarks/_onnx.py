"A backbone that ONNX Runtime runs, for speed.py: pip install onnx onnxscript onnxruntime."

import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from rvos_nb.model import RVOSModel


class OnnxNetwork(nn.Module):
    "The network in an ONNX file: frames [N,3,H,W] on the CPU -> {name: map}."

    def __init__(self, path: Path, names: list[str]):
        from onnxruntime import InferenceSession, SessionOptions

        super().__init__()
        options = SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # threads that wait in a loop would take the cores from PyTorch's own
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name
        self.names = names

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        maps = self.session.run(None, {self.input: frames.contiguous().numpy()})
        return dict(zip(self.names, map(torch.from_numpy, maps)))


def on_onnx_runtime(model: RVOSModel, path: Path) -> None:
    "Export the backbone of `model` to `path`, any number and size of frames, and run it there."
    for name in ("onnxscript", "onnx_ir", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    n, h, w = [torch.export.Dim.DYNAMIC] * 3
    frames = torch.rand(2, 3, 128, 192)
    shapes = [{0: n, 2: h, 3: w}]
    features = model.backbone.features
    program = torch.onnx.export(
        features, (frames,), dynamo=True, dynamic_shapes=shapes, verbose=False
    )
    program.save(path)
    model.backbone.features = OnnxNetwork(path, [str(s) for s in model.strides])
