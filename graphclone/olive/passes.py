"""GraphClone, a pass of Olive: an ONNX transformer in, a smaller one of the asked shape out, examined.

    {"type": "GraphClone", "layers": "50%", "ffn": 1024, "data": "corpus.jsonl"}

Its options are the table in ``graphclone.olive.options``; ``data_config`` names one of Olive's own data sets instead of
``data``. Configurations beside the model (config.json, genai_config.json) are brought up to date and go along as
additional files, and so are the model attributes that Olive carries from pass to pass (hidden_size and the like).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from olive.data.config import DataConfig
from olive.hardware.accelerator import AcceleratorSpec
from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.passes import Pass
from olive.passes.pass_config import BasePassConfig, ParamCategory, PassConfigParam

from graphclone.errors import GraphCloneError, InvalidTarget
from graphclone.olive.making import Asked, Batches, make
from graphclone.olive.options import OPTIONS, Option

logger = logging.getLogger("olive.graphclone")
CUDA = "CUDAExecutionProvider"


class GraphClone(Pass):  # type: ignore[misc]
    """Cut a transformer to fewer hidden channels, heads, feed-forward neurons and blocks, by what matters on data."""

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        """As Olive asks for options: name -> type, default, description."""
        made = {name: _parameter(option) for name, option in OPTIONS.items()}
        what = "One of Olive's data sets, instead of data: its batches are what the model is fed."
        return {**made, "data_config": PassConfigParam(type_=DataConfig | dict, default_value=None, description=what)}

    @classmethod
    def validate_config(cls, config: BasePassConfig, accelerator_spec: AcceleratorSpec) -> bool:
        """Whether it asks for something; why not is logged in one line, and Olive leaves the pass out."""
        try:
            _asked(config, accelerator_spec).refuse()
        except InvalidTarget as reason:
            logger.error("%s", reason)
            return False
        return True

    def _run_for_config(
        self, model: ONNXModelHandler, config: BasePassConfig, output_model_path: str
    ) -> ONNXModelHandler:
        if not isinstance(model, ONNXModelHandler):
            raise InvalidTarget(
                f"GraphClone cuts ONNX models, not a {type(model).__name__}: put OnnxConversion before it"
            )
        source = Path(model.model_path)
        out = Path(resolve_onnx_path(output_model_path, source.name))
        try:
            made = make(source, out, _asked(config, self.accelerator_spec))
        except GraphCloneError as reason:
            logger.error("GraphClone: %s", reason)
            raise
        attributes, warnings = made.updated(model.model_attributes or {}, out.name)
        for line in (*made.beside.warnings, *warnings):
            logger.warning("GraphClone: %s", line)
        if made.beside.files:
            tops = {out.parent / file.relative_to(out.parent).parts[0] for file in made.beside.files}
            attributes["additional_files"] = sorted(map(str, tops))  # Olive copies them by their last names
        return ONNXModelHandler(
            model_path=str(out.parent),
            onnx_file_name=out.name,
            inference_settings=model.inference_settings,
            model_attributes=attributes or None,
        )


def _parameter(option: Option) -> PassConfigParam:
    category = ParamCategory.PATH if option.path else ParamCategory.NONE
    return PassConfigParam(type_=option.type, default_value=option.default, category=category, description=option.what)


def _asked(config: BasePassConfig, accelerator: AcceleratorSpec) -> Asked:
    options = {name: getattr(config, name) for name in OPTIONS}
    provider = "cuda" if accelerator.execution_provider == CUDA else "cpu"
    return Asked(options, _fed(config.data_config) if config.data_config else None, provider, logger.info)


def _fed(given: Any) -> Callable[[], Batches]:
    """Olive's batches as ONNX Runtime is fed: (inputs, label) pairs, the inputs by name."""
    config = given if isinstance(given, DataConfig) else DataConfig(**given)

    def batches() -> Iterator[dict[str, np.ndarray[Any, Any]]]:
        for batch in config.to_data_container().create_dataloader():
            inputs = batch[0] if isinstance(batch, tuple | list) else batch
            if not isinstance(inputs, dict):
                raise InvalidTarget(
                    f"GraphClone: data_config {config.name}: batches are {type(inputs).__name__}, not inputs by name"
                )
            yield {name: np.asarray(value) for name, value in inputs.items()}

    return batches
