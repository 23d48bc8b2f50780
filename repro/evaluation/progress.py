"""What a person sees while images are tested: a tqdm bar on a terminal, else a plain line now and then."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

LINE_SECONDS = 30.0  # between plain lines


class Progress:
    """Shows images done, the errors among them and the time left, on standard error."""

    def __init__(self, name: str, done: int, total: int):
        self.name, self.first, self.total = name, done, total
        self.began = self.shown = time.monotonic()
        self.bar = None
        if sys.stderr.isatty():
            self.bar = tqdm(total=total, initial=done, desc=name, unit="image", dynamic_ncols=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.close()

    def show(self, done: int, top1_errors: int, top5_errors: int) -> None:
        """Put the current numbers on the bar, or print them if the last line is old."""
        errors = f"error top-1 {100 * top1_errors / done:.2f} %, top-5 {100 * top5_errors / done:.2f} %"
        now = time.monotonic()
        if self.bar is not None:
            self.bar.set_postfix_str(f"{errors} so far", refresh=False)
            self.bar.update(done - self.bar.n)
        elif now - self.shown >= LINE_SECONDS:
            self.shown = now
            rate = (done - self.first) / (now - self.began)
            print(f"{self.name}: {done}/{self.total} images, {errors} so far, {rate:.1f} images/s, "
                  f"{(self.total - done) / rate / 60:.0f} min left", file=sys.stderr, flush=True)
