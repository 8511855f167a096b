"""Training by several processes: each takes its share of every batch (stf.training.loaders), and all sum gradients.

Each process weighs its losses by its clips' share of all the step's
clips; the sum of the gradients is then the gradient of the mean over the step, and as no real is parted from its fake,
that holds for the hinge on pairs too. A process without a pair in a batch adds nothing to it.

Summed by hand after the last backward pass rather than by DistributedDataParallel: that wants a forward pass of every
process in every batch, and wraps the network, on which names, moving average, compilation and checkpointing hang. It
would hide the transfer behind the backward pass; but that is 54 MB for phase A at full size: a few milliseconds between
GPUs of one machine, some 80 ms over 10 Gbit/s Ethernet, against steps that take many times that (calculated, not
measured: there was one machine without a GPU).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import compress

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stf.io.distributed import World

_BUCKET_ELEMENTS = 25 << 18  # 25 MiB of float32: the first is on its way while the next is packed


def has_gradient(parameters: Sequence[nn.Parameter]) -> list[bool]:
    """Which of `parameters` this process's backward passes have reached."""
    return [parameter.grad is not None for parameter in parameters]


def sum_gradients(parameters: Sequence[nn.Parameter], has_gradient_by_rank: Sequence[Sequence[bool]]) -> None:
    """Replaces every gradient by its sum over the processes, all with the same bits.

    A process without clips in this step counts as 0; a parameter that nobody's clips reached keeps None.
    """
    if len(has_gradient_by_rank) == 1:
        return
    reached = map(any, zip(*has_gradient_by_rank, strict=True))
    gradients = [_gradient(parameter) for parameter in compress(parameters, reached)]
    on_their_way = []
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        on_their_way.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
    for bucket, flat, transfer in on_their_way:
        transfer.wait()
        pieces = flat.split([gradient.numel() for gradient in bucket])
        for gradient, piece in zip(bucket, pieces, strict=True):
            gradient.copy_(piece.view(gradient.shape))


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """`tensors` in order, in lists of about _BUCKET_ELEMENTS elements."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        bucket.append(tensor)
        if sum(each.numel() for each in bucket) >= _BUCKET_ELEMENTS:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


def start_alike(modules: Iterable[nn.Module], world: World) -> None:
    """Gives every process rank 0's parameters and buffers: first draws and files may differ between machines."""
    if world.size == 1:
        return
    for module in modules:
        for tensor in module.state_dict().values():
            in_a_row = tensor.contiguous()
            dist.broadcast(in_a_row, src=0)
            tensor.copy_(in_a_row)
