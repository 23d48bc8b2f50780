"""The committed evidence: the records of runs, and tables against the records that they are made of. Without torch."""

from repro.places import in_tree, reference_dir, shown
from repro.records.check import check_record
from repro.records.finding import ERROR
from repro.reporting import tables
from repro.runs import scan
from repro.verification.check import Difference, Mismatch, Skipped


def committed_tables() -> str:
    """Every form of every committed table, made anew from the committed records; Skipped without a checkout."""
    if not in_tree():
        raise Skipped("an installed package has no tables of its own; a checkout has")
    names = tables.committed()
    wrong = tables.differing(names, reference_dir())
    if wrong:
        raise Mismatch([Difference(name, "what the committed records give (`repro table all --reference` writes it)",
                                   "another text" if (reference_dir() / "tables" / name).is_file()
                                   else "no such file") for name in wrong])
    return f"{len(names)} tables, in every form as the records in {shown(reference_dir() / 'runs')} give them"


def committed_records() -> str:
    """Every committed record by the checks of `repro verify-record`; an installed package has them too."""
    runs = reference_dir() / "runs"
    folders = [run.folder for run in scan(runs)]
    if not folders:
        raise Skipped(f"no records in {shown(runs)}")
    wrong = [Difference(f"{folder.relative_to(runs)}: {one.check}", "nothing to find", one.text)
             for folder in folders for one in check_record(folder, folders)[:-1] if one.verdict == ERROR]
    if wrong:
        raise Mismatch(wrong)
    return f"{len(folders)} records in {shown(runs)} as `repro verify-record` asks"
