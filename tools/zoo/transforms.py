"""ONNX file -> ONNX file: what others do to an export before graphclone meets it.

Knows neither torch nor graphclone: ``python -m tools.zoo.transforms NAME SOURCE TARGET [HEADS HIDDEN MODEL_TYPE]`` may
run in an environment of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx


@dataclass(frozen=True)
class Job:
    """One file to transform. heads, hidden, model_type: what onnxruntime.transformers wants to be told."""

    source: Path
    target: Path
    heads: int = 0
    hidden: int = 0
    model_type: str = "bert"


class NothingChanged(Exception):
    """The transformation found nothing to do, so the cell would repeat another one."""


def _fused(job: Job) -> None:
    """onnxruntime.transformers.optimizer, its Python fusions only."""
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    options = FusionOptions(job.model_type)
    made = optimizer.optimize_model(
        str(job.source),
        model_type=job.model_type,
        num_heads=job.heads,
        hidden_size=job.hidden,
        optimization_options=options,
        opt_level=0,
        use_gpu=False,
    )
    contrib = sorted({n.op_type for n in made.model.graph.node if n.domain == "com.microsoft"})
    if not contrib:
        raise NothingChanged("onnxruntime.transformers fused nothing")
    print(" ".join(contrib))
    onnx.save(made.model, job.target)


def _float16(job: Job) -> None:
    """Weights and activations in float16, inputs and outputs too."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(job.source), keep_io_types=False, op_block_list=["Range"]), job.target)


def _bfloat16(job: Job) -> None:
    """Weights stored in bfloat16, each behind a Cast: ONNX Runtime's CPU has no arithmetic in bfloat16."""
    import ml_dtypes

    model = onnx.load(job.source)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1:
            stored = onnx.numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16)
            name = tensor.name
            tensor.CopyFrom(onnx.numpy_helper.from_array(stored, f"{name}_bfloat16"))
            casts.append(
                onnx.helper.make_node("Cast", [tensor.name], [name], f"{name}_cast", to=onnx.TensorProto.FLOAT)
            )
    nodes = onnx.GraphProto(node=[*casts, *model.graph.node])
    model.graph.ClearField("node")
    model.graph.node.extend(nodes.node)
    onnx.save(model, job.target)


def _onnxsim(job: Job) -> None:
    import onnxsim

    made, right = onnxsim.simplify(onnx.load(job.source))
    if not right:
        raise ValueError("onnxsim says that its result differs")
    onnx.save(made, job.target)


def _onnxslim(job: Job) -> None:
    import onnxslim

    onnx.save(onnxslim.slim(onnx.load(job.source)), job.target)


def _ort(level: str) -> Callable[[Job], None]:
    """What an ONNX Runtime session writes after its own optimisations."""

    def run(job: Job) -> None:
        import onnxruntime as ort

        options: Any = ort.SessionOptions()
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        options.optimized_model_filepath = str(job.target)
        options.log_severity_level = 3
        ort.InferenceSession(str(job.source), options, providers=["CPUExecutionProvider"])

    return run


TRANSFORMS: dict[str, Callable[[Job], None]] = {
    "fused": _fused,
    "float16": _float16,
    "bfloat16": _bfloat16,
    "onnxsim": _onnxsim,
    "onnxslim": _onnxslim,
    "ort-basic": _ort("ORT_ENABLE_BASIC"),
    "ort-extended": _ort("ORT_ENABLE_EXTENDED"),
}


def main(arguments: list[str]) -> None:
    """Transform one file; the target appears only when it is whole."""
    name, source, target, *told = arguments
    partial = Path(target + ".part")
    heads, hidden, model_type = (int(told[0]), int(told[1]), told[2]) if told else (0, 0, "bert")
    TRANSFORMS[name](Job(Path(source), partial, heads, hidden, model_type))
    os.replace(partial, target)


if __name__ == "__main__":
    main(sys.argv[1:])
