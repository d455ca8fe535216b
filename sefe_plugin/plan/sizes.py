"""The measured numbers that a plan is worked out from."""

from dataclasses import dataclass


class PlanError(ValueError):
    """A plan that cannot be made, with the reason and the remedy."""


@dataclass(frozen=True)
class Architecture:
    """A base model with what is trained in one task, in numbers.

    Attributes:
        model_type: the architecture's name in Transformers.
        parameters: of the base model, tied ones counted once.
        frozen_parameters: what of them is not trained itself.
        weight_bytes: of the frozen ones as they are held: in their own precision, or in 4 or 8 bit where quantized.
        quantized_bytes: what of them is quantized weights with their scales.
        saved_bytes: of the base model in its own precision, as a merged model is saved.
        trainable_parameters: LoRA's, and those of modules or models that are trained whole.
        trainable_bytes: of the trainable parameters as the host allocates them.
        lora_bytes: what of them is LoRA.
        matrices: (out_features, in_features) of every adapted matrix.
        layers: of the language model.
        hidden_size: of the language model.
        vocabulary: number of logits of a token.
        layer_parameters: of one layer of the language model.
        layer_bytes_per_token: of what one layer keeps for its backward pass, without gradient checkpointing.
        layer_width: inputs or outputs of the widest matrix of one layer.
        weight_type: of the base model's own precision, such as "bfloat16".
        image_tokens: of one image at the largest size the recipe admits; 0 without a vision tower.
    """

    model_type: str
    parameters: int
    frozen_parameters: int
    weight_bytes: int
    quantized_bytes: int
    saved_bytes: int
    trainable_parameters: int
    trainable_bytes: int
    lora_bytes: int
    matrices: tuple[tuple[int, int], ...]
    layers: int
    hidden_size: int
    vocabulary: int
    layer_parameters: int
    layer_bytes_per_token: int
    layer_width: int
    weight_type: str
    image_tokens: int


@dataclass(frozen=True)
class TestSize:
    """A test set that belongs to no task.

    Attributes:
        name: of the test set.
        records: to answer before the first task and after every one.
        bytes: of their file.
    """

    name: str
    records: int
    bytes: int


@dataclass(frozen=True)
class TaskSize:
    """The data of one task.

    Attributes:
        name: of the task.
        samples: of its own training data, or None if they cannot be counted here.
        mean_tokens: of a sample, the added ones among them.
        longest_tokens: of the longest sample seen, likewise.
        test_records: to answer after this task and every later one.
        test_bytes: of their file.
        source: "measured"; "counted": the tokens are estimated; "published": the samples are published figures.
        added: samples of earlier tasks and general ones that are trained with them.
    """

    name: str
    samples: int | None
    mean_tokens: int
    longest_tokens: int
    test_records: int
    test_bytes: int
    source: str
    added: int = 0
