"""A bench on numbers made up here, in the place of processes."""

import math

from repro.bench.plan import RATES

TINY = ("train.mini_batch_size=16", "train.batch_norm_group=16", "machine.device=cpu", "machine.threads=1")
PARAMETERS = {8: 75_290, 20: 269_722, 56: 853_018, 110: 1_727_962, 1202: 19_421_274}
MILLISECONDS = {"repro": (4.0, 5.0, 3.0, 4.5, 3.5), "eager_loop": (8.0, 8.0, 9.0, 7.0, 8.0),
                "reduce_overhead": (6.0,) * 5, "dataloader": (40.0, 41.0, 39.0, 40.0, 40.0)}


class Made:
    """`Made()(job)` is what a process would have printed; `asked` holds the contenders in order.

    `changes` maps (contender, round from 1) to what is different there.
    """

    def __init__(self, changes=None):
        self.asked, self.changes = [], changes or {}

    def __call__(self, job, ends=math.inf):
        self.asked.append(job.contender)
        number = self.asked.count(job.contender)
        if job.contender == RATES:
            result = {"device": "Made (R) GPU, 2 threads", "threads": 2, "copy_bytes_per_second": 1e9 * (9 + number),
                      "matrix_operations_per_second": 2e12}
        else:
            kind = job.contender.partition(":")[0]
            times = MILLISECONDS[kind][(number - 1) % 5]
            result = {"kind": "eager", "said": [], "parameters": PARAMETERS[job.depth],
                      "setup_seconds": 9.0, "shared_loss": 2.5, "last_loss": 1.25, "warmup": job.warmup,
                      "steps": job.steps, "ms_per_step": times, "images_per_second": 128_000 / times}
        return result | self.changes.get((job.contender, number), {})
