"""What can go wrong, as data: {number: the fault and what must come of it}, and that each has a test that injects it.

Tests name theirs by `@pytest.mark.fault`; exit codes are those of repro/errors.py. "Named" is one message with cause,
path and next step, without a traceback.
"""

import re
from pathlib import Path

FAULTS = {
    1: "a key that is not there (train.lrr=1): the nearest is suggested; 2; no run folder",
    2: "an experiment that is not there: all are listed; 2",
    3: "a value of a wrong type or outside its range: key, value, what is allowed; 2; torch is not imported",
    4: "a user's file that is broken, has a key twice or would run code: file and line; 2",
    5: "a value that is missing (???): its key; 2",
    6: "no command, or a misspelled one, key, suite, table, figure: help or the nearest; 2",
    7: "more devices than there are: asked and found; 2; never silently fewer",
    8: "CUDA is asked for, none or too old a driver: machine.device=cpu is named; 2",
    9: "CIFAR-10 is absent and there is no network: where it was looked for, the command, its size, its source; 3",
    10: "a data file is cut by a byte: sizes and hashes; 3; kept as .corrupt; `repro data fetch` repairs it",
    11: "a flipped byte in data_batch_3: as 10",
    12: "a download without a name, with 404, 503, a bad certificate, no answer: the address and why; 3",
    13: "a download cut at half: the hash disagrees, nothing stays of it; the next call starts over",
    14: "a page in the place of the archive: the hash disagrees; 3",
    15: "an archive with .., a link, a bomb: another hash than the official archive's, so nothing of it is unpacked; 3",
    16: "an ImageNet folder with wrong counts or bad images: counted before the start, the first 10 named; 3",
    17: "a data folder that can't be read or written: its path; 5",
    18: "the disk is full while a checkpoint is written: needed and free; 5; the one before loads, no part left",
    19: "the disk is full for TensorBoard: training goes on; for history.csv: 5, the state saved if possible",
    20: "killed while a checkpoint is written, at 100 random moments: the newest whole one loads, the same curve",
    21: "killed between two updates: goes on, weights equal to those of a run left alone, bit for bit",
    22: "SIGTERM, SIGUSR1, SIGUSR2: saved after the update; the command that goes on; 75",
    23: "Ctrl-C once: saved, 130; twice: at once, the last checkpoint intact; no traceback of a worker",
    24: "SIGHUP: as 22",
    25: "a queue stops and requeues, or ends at its time limit: the same folder, one continuous history",
    26: "a checkpoint that is empty, cut, garbage or flipped: one message; the one before; if none, 5",
    27: "a checkpoint of another configuration or network: the keys that differ; 2; resume=never is named",
    28: "a malicious pickle as checkpoint or weights: refused, nothing is executed; 5",
    29: "a checkpoint of a newer version, or of a GPU on a CPU: loads, or the version that is needed is named",
    30: "a loss or gradient that is not finite: stops before the update; status diverged; 6; the last good state stays",
    31: "no memory left on the GPU: used and free, smaller settings; 8; nothing of it published",
    32: "no memory left on the CPU: as 31",
    34: "one of several processes dies, hangs or fails: all stop in time, it is named; none is left",
    35: "the port for the meeting of processes is taken: a free one is found without being told",
    36: "the same run twice at once, here or on another host: pid, host, since; 7; the first is unharmed",
    37: "a lock that a dead process left: taken over with a note",
    38: "two different runs in the same second: different folders",
    39: "a results folder that is missing, read-only, or has spaces and letters beyond ASCII: made; 5; works",
    40: "a half-written last line of history.csv, a torn run.json: dropped with a note; 'incomplete', never counted",
    41: "a table of no, unfinished, failed, foreign or doubled runs: cells, seeds, reasons; 0; --strict 4",
    42: "a file of published numbers is edited: its checksum test fails",
    43: "the clock jumps, another time zone or locale: ISO UTC, decimal points",
    44: "no terminal, a narrow one, a reader that leaves: no control codes; ends quietly",
    45: "no git, uncommitted changes, an installed wheel: the record says so; it runs",
    46: "no seed, seed=-1, seed=2**32: 0; the range; 2",
    47: "going on with another number of processes or another mini-batch: refused unless the mini-batch is the same, "
        "and said that it is no longer bit for bit",
    48: "Python 3.10, torch 2.10, a torchvision that does not fit: the pair that is needed; 2",
    49: "processes that train together were asked for different runs: both values; 2; devices=1 stays one process",
    50: "weights.pt of a run with settings or a split of its own: they come along; one that contradicts: 2",
    51: "a user's file that would replace one of ours in silence (--config-dir): named; 2",
    52: "an error that the authors of a file state: only beside the file that they published, by its SHA-256",
    53: "standard output, error or input closed: the run trains; 0",
    54: "a TensorBoard that can't be imported: said once, training goes on without its scalars",
    55: "checkpoints of other training scripts (Namespace, numpy scalars, prefixes): read; any other type is named; 5",
    56: "a file system without flock: one line that names the folder; 5",
    57: "torch.export or torch.compile after a run in one process: works, the flags of TF32 are as they were",
    58: "a list or null in the place of a group (machine=[auto,cpu], recipe=null): named; 2",
    59: "images turned by EXIF, 16-bit gray: read equally in training and evaluation, and the README says how",
    60: "a UTF-8 BOM in YAML or CSV, no HOME, a working directory that is gone, no fcntl: works or one line",
    62: "an export of another depth than its experiment's: called by its depth; eval without experiment= works for it",
    63: "a number in a checkpoint's JSON is changed: not used; the one before; weights equal to a run's left alone",
    64: "output that fails other than by a lost reader (full disk, /dev/full): training goes on, its results are whole",
    65: "weights.pt of a finished run is changed: eval and responses refuse it; 5",
    66: "two writers of one file, two publishers at once: one of them whole, never an empty or mixed file",
    67: "a signal while torch is imported: neither swallowed nor a crash; 75 or 130",
    68: "the launcher is killed while its workers start: they end within seconds",
    69: "a run's folder is moved, removed or unmounted while it trains: no other one appears; 5 with the first error",
    70: "a file of the current folder that is called like a package: workers do not import it",
    71: "one hostile or torn record among good ones: it is listed as unreadable, every command shows the others",
    72: "an error changed everywhere, a seed relabeled, a commit made up: `repro check record` names it; 4",
    73: "an interpolation or an alias bomb in a user's file: refused; 2; no variable of the environment is recorded",
    75: "absurd sizes, ranks, paths; weights that are NaN, complex or a FIFO: one line before memory is taken",
    76: "control characters in names, -0.0, other versions on resume: said, quoted, recorded",
    77: "torchvision's weights with val/ alone: tested with the mean and std that they carry",
    78: "public weights of CIFAR-10: the counts of errors that were measured stand with their files' SHA-256",
    79: "a second reference with another network: left out of the usual range, with its reason",
    80: "details of the paper's own files (fc, pool1, conv1's bias): they stand in the table of details",
    81: "gradients of deep plain nets in bf16: the README asks for fp32 there and claims no more than its runs show",
    82: "grouped batch normalization in float64 or bf16: its buffers keep the type that they have",
}


def test_every_fault_has_a_test_and_every_mark_names_a_fault():
    mark = re.compile(r"^@pytest\.mark\.fault\(([\d, ]+)\)$", re.MULTILINE)
    sources = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.rglob("test_*.py")]
    marked = {int(row) for text in sources for rows in mark.findall(text) for row in rows.split(",")}
    assert [f"{row}: {text}" for row, text in FAULTS.items() if row not in marked] == []
    assert marked <= FAULTS.keys()
