"""What a recipe may say. Every key is documented here, for people, for editors (JSON schema) and for refusals."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    field_validator,
    model_validator,
)

from graphclone.sizing.judges import GREEDY
from graphclone.workflow.values import Amount, Blocks, Count, Name, Seed, ShardSize, Share, Size

ALONE = "clone"  # the name of the only target where the recipe says `target:`
SIZES = ("hidden", "heads", "kv_heads", "head_dim", "ffn", "layers")
BLOCKS = ("keep_blocks", "drop_attention", "drop_ffn", "deeper")
BUDGET = ("params", "size", "latency")


class Section(BaseModel):
    """What all parts of a recipe have in common: no other keys than these, and nothing changes them."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Data(Section):
    """Where batches come from."""

    source: str
    """Files (.npz, text, .jsonl, .parquet, images), datasets:NAME, module:function, python-docs or random:N."""
    tokenizer: str | None = None
    """A tokenizer.json; by default the one beside the parent."""
    column: str | None = None
    """The field of records that holds the text, here and where vocab is taken from records."""
    images: str | None = None
    """How images become pixels: a preprocessor_config.json, or such as resize=256,crop=224,mean=0.5,std=0.5."""
    length: Count = 128
    """Tokens a sequence."""
    batch_size: Count = 8
    """Sequences a batch."""
    limit: Count | None = None
    """Stop after this many batches."""
    mask: str | None = None
    """The input that says which positions count."""


class Method(Section):
    """How neurons and blocks are chosen, and how weights are corrected."""

    importance: str = "equal-vote"
    """How neurons are ranked: equal-vote, paper, l2, energy, variance, wanda, fluctuation (which need data); magnitude,
    first, uniform, random:SEED (which do not)."""
    correction: str = "best"
    """How weights are corrected: best, none, paper, or passes joined by +: norm-gain, least-squares, mean-bias,
    depth-patch, read-in, pca, query-scale (best+read-in, pca+best)."""
    depth: str = "best"
    """Which blocks go: best (block-influence; paper where nothing was measured, and where correction names paper),
    paper (the middle ones), uniform, block-influence, angular, greedy (by trying)."""
    moments: StrictBool | None = None
    """Second moments, for least squares; by default where the correction has use for them."""


class Training(Section):
    """Training in PyTorch, alone or beside a teacher."""

    steps: Count
    """Updates."""
    data: Data | None = None
    """What to train on; by default the recipe's data."""
    task: str = "causal-lm"
    """causal-lm, masked-lm, image-classification, embedding, or module:function, file.py:function."""
    teacher: str | None = None
    """An ONNX file to learn from; `parent` is the parent."""
    teacher_weight: Share = 1.0
    """Share of the loss (0 to 1) that imitates the teacher; the task's own loss has the rest."""
    hidden_weight: Annotated[float, Field(ge=0)] | None = None
    """Of the teacher's hidden states, falling to 0 by half the run."""
    cache: StrictBool = False
    """Keep what the teacher says in the run folder."""
    top: Count = 64
    """Tokens kept of what the teacher says."""
    twin: StrictBool = False
    """Train one of the same shape that starts from nothing, too: what the clone is worth."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Its peak."""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """How the learning rate falls: cosine and wsd end at a tenth of its peak."""
    warmup: Share = 0.05
    """Share of the steps during which the learning rate rises from 0."""
    decay: Share = 0.2
    """With schedule wsd: share of the steps, at the end, during which it falls."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Of matrices, not of gains and biases."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient."""
    accumulation: Count = 1
    """Batches whose gradients are added for one update."""
    dropout: Share = 0.0
    """Probability, at the usual places (attention, behind each branch, embeddings)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """What autocast computes in."""
    compile: StrictBool = False
    """With torch.compile."""
    recompute: StrictBool = False
    """Recompute activations: less memory, more time."""
    read: str | None = None
    """The output of the graph that the task reads."""
    shuffle: Annotated[int, Field(ge=0)] = 0
    """Batches to draw rows from; 0: the order of the data."""
    held_out: Annotated[int, Field(ge=0)] = 2
    """Batches kept from training, to evaluate on."""
    evaluations: Count = 4
    """Held-out losses on the way."""
    keep: Literal["best", "last"] = "best"
    """Weights of the best held-out loss, or the last."""
    seed: Seed | None = None
    """Of everything that is drawn; by default the recipe's."""


class Outputs(Section):
    """What is written of each clone beside its ONNX file."""

    torch: StrictBool = False
    """model.py and model.safetensors, which run without graphclone."""
    hugging_face: str | None = None
    """A checkpoint for AutoModel.from_pretrained; the folder of the parent's config.json and tokenizer."""
    side_files: StrictBool | str = False
    """config.json, genai_config.json and the like, brought up to date: true (beside the parent), or their folder."""
    shard_size: ShardSize | None = None
    """Weights go to files beside the model, each of this size (2GB) at most."""


class Bench(Section):
    """Latency, throughput and memory beside the parent."""

    lengths: list[Count] = []
    """Of sequences; by default 32, 128 and 512, as far as the parent's positions reach."""
    batch: Count = 1
    """Sequences a batch."""
    runs: Count = 15
    """That count, of each model and length."""
    warmup: Annotated[int, Field(ge=0)] = 3
    """Runs before those."""


class Check(Section):
    """What a clone has to be: the run fails where one is not."""

    max_params: Amount | None = None
    """Most parameters: 50M, or a share of the parent's such as 40%."""
    max_size: Amount | None = None
    """Most bytes of all its files: 100MB, 25%."""
    max_latency_ratio: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Most time, in units of the parent's, at the length where it gains least."""
    min_score: str | None = None
    """module:function=MINIMUM, called with the clone's path; a minimum such as 95% is of the parent's score."""


class Target(Section):
    """The shape of one clone: sizes (a number, or a share of the parent's such as 50%), or a budget."""

    hidden: Size | None = None
    """Width of the residual stream."""
    heads: Size | None = None
    """Query heads a block; one a block: 8,8,6 or 0-9:8,10-11:50%."""
    kv_heads: Size | None = None
    """Key/value heads a block."""
    head_dim: Size | None = None
    """Width of one head."""
    ffn: Size | None = None
    """Feed-forward neurons a block; one a block: 1024,768 or 0-9:1024,10-29:50%."""
    layers: Size | None = None
    """Blocks kept."""
    keep_blocks: Blocks | None = None
    """Which blocks are kept, instead of layers: 0-3,8,11."""
    drop_attention: Blocks | None = None
    """Blocks that stay without their attention."""
    drop_ffn: Blocks | None = None
    """Blocks that stay without their feed-forward."""
    deeper: StrictBool = False
    """layers may be more than the parent has: middle blocks repeat."""
    vocab: str | None = None
    """Keep the tokens alone that this text uses, or that a .txt file of ids lists."""
    params: Amount | None = None
    """Budget: most parameters (50M, 30%)."""
    size: Amount | None = None
    """Budget: most bytes of its files, the graph included (100MB, 25%)."""
    latency: Amount | None = None
    """Budget: most time of a batch in ONNX Runtime (20ms, 50%)."""
    method: Method | None = None
    """Instead of the recipe's."""
    training: Training | None = None
    """Instead of the recipe's."""
    pack: str | None = None
    """Weights trained elsewhere (.safetensors) that go into the clone."""
    check: Check | None = None
    """Instead of the recipe's."""

    @property
    def sizes(self) -> dict[str, Any]:
        """The sizes and blocks that are asked for."""
        return {
            name: held for name in (*SIZES, *BLOCKS) if (held := getattr(self, name)) is not None and held is not False
        }

    @property
    def budget(self) -> dict[str, str]:
        """The most it may have."""
        return {name: str(held) for name in BUDGET if (held := getattr(self, name)) is not None}

    @model_validator(mode="after")
    def _one_kind(self) -> Target:
        if self.sizes and self.budget:
            raise ValueError(f"{', '.join(self.budget)} choose the sizes: leave {', '.join(self.sizes)} out")
        if not self.sizes and not self.budget and not self.vocab:
            raise ValueError(f"nothing is asked for: give {', '.join((*SIZES, *BUDGET))} or vocab")
        return self


class Workflow(Section):
    """A recipe: what is made of one parent, by which data and method, and what is written."""

    model_config = ConfigDict(title="graphclone recipe")

    parent: str
    """The ONNX file that is cut. Paths are relative to the recipe's folder; ${NAME} and ${NAME:-default} are read from
    the environment."""
    data: Data | None = None
    """What is measured on, once for all targets. Without data neurons are chosen by their weights or by place."""
    target: Target | None = None
    """One clone."""
    targets: dict[Name, Target] = {}
    """Several clones by name: a family of sizes from one parent. One that is null is left out."""
    method: Method = Method()
    """How neurons and blocks are chosen and corrected."""
    training: Training | None = None
    """Train each clone."""
    outputs: Outputs = Outputs()
    """What is written of each clone."""
    bench: Bench | None = None
    """Time each clone beside its parent."""
    check: Check | None = None
    """What each clone has to be."""
    provider: Literal["auto", "cpu", "cuda"] = "auto"
    """Where ONNX Runtime runs."""
    threads: Count | None = None
    """ONNX Runtime's threads."""
    seed: Seed = 0
    """Of everything that is drawn at random."""

    @property
    def family(self) -> dict[str, Target]:
        """Every target by its name."""
        return {ALONE: self.target} if self.target is not None else dict(self.targets)

    @field_validator("targets", mode="before")
    @classmethod
    def _left_out(cls, held: Any) -> Any:
        return {name: target for name, target in held.items() if target is not None} if isinstance(held, dict) else held

    @model_validator(mode="after")
    def _some_target(self) -> Workflow:
        if (self.target is None) == (not self.targets):
            raise ValueError("give either `target` (one clone) or `targets` (several by name)")
        return self

    @model_validator(mode="after")
    def _one_by_one(self) -> Workflow:
        for name, target in self.family.items():
            if (target.method or self.method).depth == GREEDY and (target.layers is None or self.data is None):
                raise ValueError(f"{name}: depth: greedy drops blocks one by one: give layers, no budget, and data")
        return self


def json_schema() -> dict[str, Any]:
    """For editors: JSON Schema 2020-12."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Workflow.model_json_schema()}
