"""How much memory a run needs, before its first step; what the backward pass keeps is measured on a few images."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from repro.devices import autocast, settings_restored
from repro.models.recompute import Stage, recompute
from repro.schema import RunConfig
from repro.sizes import size_text
from repro.training.inputs import Data

SAMPLES = (2, 4)  # images of the measured forward passes; batch normalisation needs more than one


@dataclass(frozen=True)
class Memory:
    """Bytes on the device: weights, gradients and momentum; activations kept for the backward pass; the data set."""

    weights: int
    activations: int
    data: int

    @property
    def total(self) -> int:
        """All of it. Work space of the convolutions and of the test comes on top and depends on the device."""
        return self.weights + self.activations + self.data


def needed(model: nn.Module, data: Data, config: RunConfig, devices: int = 1) -> Memory:
    """The memory of each device of a resolved configuration's run, from tensor sizes; the model is left as it is."""
    weights = 3 * sum(p.numel() * p.element_size() for p in model.parameters())
    sample = copy.deepcopy(model).train()
    recompute(sample, config.machine.activation_checkpointing)
    with settings_restored():
        torch.backends.cudnn.benchmark = False  # or cuDNN would try all that it knows on these few images
        few, more = (activations(sample, data, config, images) for images in SAMPLES)
    per_image = (more - few) / (SAMPLES[1] - SAMPLES[0])  # the rest does not grow: 16-bit copies of weights
    images = config.train.mini_batch_size // devices
    return Memory(weights, int(few + per_image * (images - SAMPLES[0])), data.stored_bytes)


def activations(model: nn.Module, data: Data, config: RunConfig, count: int) -> int:
    """Bytes that a forward pass over so many training images keeps, and those of a segment that is computed again."""
    images = data.sample(count).contiguous(
        memory_format=torch.channels_last if config.machine.channels_last else torch.contiguous_format)
    with autocast(images.device, config.machine.precision):
        kept = kept_bytes(model, images)
        if config.machine.activation_checkpointing:
            kept += largest_segment(model, images)
    return kept


def shortage(memory: Memory, device: torch.device, config: RunConfig) -> str | None:
    """What to say where a run needs more than is free on its GPU; None where it fits or nobody knows (a CPU)."""
    if device.type != "cuda":
        return None
    free = torch.cuda.mem_get_info(device)[0]
    if memory.total <= free:
        return None
    less = "" if config.machine.activation_checkpointing else "; machine.activation_checkpointing=true needs less"
    return f"more memory than the {size_text(free)} that are free on this GPU{less}"


def largest_segment(model: nn.Module, images: Tensor) -> int:
    """Bytes that live while one segment, the first of some stage, is computed again."""
    inputs: dict[Stage, Tensor] = {}
    stages = [module for module in model.modules() if isinstance(module, Stage)]
    handles = [stage.register_forward_pre_hook(lambda stage, given: inputs.update({stage: given[0]}))
               for stage in stages]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return max(kept_bytes(next(stage.segments()), inputs[stage].requires_grad_()) for stage in stages)


def kept_bytes(model: nn.Module, images: Tensor) -> int:
    """Bytes that a forward pass keeps for its backward pass, weights and buffers apart."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}
    alive = []  # so that no two storages have the same address

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        model(images)
    return sum(kept.values())
