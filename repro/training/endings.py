"""What becomes of a run that can't go on: its state is saved where it is whole, and its record says how it ended."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch

from repro.devices import is_out_of_memory
from repro.errors import ImageError, InUseError, LostProcessError, OutOfMemoryError, PeerError, StorageError
from repro.runs import OUT_OF_MEMORY, utc_now
from repro.schema import Device, RunConfig
from repro.training.background import Writer
from repro.training.recorder import Recorder


@contextmanager
def save_on_failure(recorder: Recorder, writer: Writer, save: Callable[[], int | None] | None,
                advice: str) -> Iterator[None]:
    """Around the updates of a run: what stops them leaves as much behind as can be saved.

    `save` writes a checkpoint of the updates that are done and returns their number, None if it can't now; itself None
    where one process can't do that alone. It is called where an input or output failed, which is never within an
    update. Memory may run out within one, so that the state is not whole: then the last checkpoint stays. Raises what
    was raised, as an error of ours where it is known.
    """
    try:
        yield
    except (StorageError, ImageError, LostProcessError) as error:
        saved = "what was saved before stays"
        with suppress(StorageError, InUseError):
            writer.finish()
        if save is not None and not isinstance(error, PeerError):
            with suppress(StorageError, InUseError):
                saved = saved if (at := save()) is None else f"saved at iteration {at}"
        record_end(recorder, "interrupted")
        raise type(error)(f"{error}\n{saved}; {advice}") from error
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        record_end(recorder, OUT_OF_MEMORY)
        raise OutOfMemoryError(f"{no_memory(error, recorder.config)}\nthe last checkpoint stays; {advice}") from error


def record_end(recorder: Recorder, status: str) -> None:
    """Write how a run ended into its record, if that can be written."""
    with suppress(StorageError, InUseError):
        recorder.write(status=status, ended=utc_now())
    recorder.close()


def no_memory(error: Exception, config: RunConfig) -> str:
    """What did not fit where, and what needs less memory without another number."""
    machine = config.machine
    where, less = machine.device.name, ["machine.evaluation_batch_size of less than "
                                        f"{machine.evaluation_batch_size}, if it was in a test"]
    if machine.device is Device.cuda:
        free, total = torch.cuda.mem_get_info()
        where += f" ({(total - free) / 1e9:.1f} GB used, {free / 1e9:.1f} GB free)"
        less.insert(0, "devices=N, which share each mini-batch")
    if not machine.activation_checkpointing:
        less.insert(0, "machine.activation_checkpointing=true")
    return (f"{config.name}: no memory left on {where} for mini-batches of {config.train.mini_batch_size}: "
            f"{str(error).splitlines()[0]}\nthese need less and give the same numbers: {'; '.join(less)}")
