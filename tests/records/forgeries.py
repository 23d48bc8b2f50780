"""Forgeries, each with the record that it is made of, how it is made, the check that finds it and some of its words."""

from datetime import datetime, timedelta

import yaml

from tests.records.made import cell, consistent, edit, lines, put, remove, set_everywhere

RESNET, IMAGENET, PLATEAU, SHORTENED = "resnet", "imagenet", "plateau", "shortened"
# What write_record makes them of.
MADE = {RESNET: ("cifar_resnet20",), "plain": ("cifar_plain56",), "warmup": ("cifar_resnet110",),
        IMAGENET: ("imagenet_optB",), "bottleneck": ("imagenet_resnet50",), SHORTENED: ("cifar_resnet20", "scale=0.01"),
        PLATEAU: ("cifar_resnet20", "data.split=45k", "train.lr_policy=plateau"),
        "fixed": ("cifar_resnet20", "train.warmup=fixed400"), "recipe": ("cifar_resnet20", "recipe=fb")}


def both(folder, *changes):
    """Several changes one after the other."""
    for change in changes:
        change(folder)


def renewed(change):
    """A change of the history after which result, best test error and hash are renewed too."""
    return lambda folder: both(folder, change, consistent)


def renamed(folder, seed):
    """Another seed in every file; the folder is renamed by the test."""
    put(folder, seed, "seed")
    put(folder, seed, "config", "seed")
    written = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(written | {"seed": seed}))


def hidden(folder):
    """A setting changed in every file, but not confessed."""
    set_everywhere(folder, "train", "weight_decay", 0.0005)


def put_everywhere(folder, honest):
    """The last test error improved to the published one; what averaged statistics gave is left as it was."""
    cell(folder, -1, "test_top1_error", 8.75)
    put(folder, honest, "recomputed_batch_norm", "test_top1_error")


def swap_rows(found):
    found[5], found[6] = found[6], found[5]


def later(seconds):
    return lambda text: (datetime.fromisoformat(text) + timedelta(seconds=seconds)).isoformat(timespec="seconds")


def moved_row(folder, row, seconds):
    """The time of a row, moved."""
    found = (folder / "timing.csv").read_text().splitlines()
    cell(folder, row, "utc", later(seconds)(found[row + 1].split(",")[-1]), name="timing.csv")


T, R, H = "timing.csv", "responses.csv", "history.csv"
FORGERIES = {
    # history.csv
    "a cell changed": (RESNET, lambda f: cell(f, 3, "test_loss", 1.5), "result", "was changed after the run"),
    "a recorded hash changed": (RESNET, lambda f: put(f, "0" * 64, "history_sha256"), "result", "recorded 0000000"),
    "a test error no number of images gives": (
        RESNET, renewed(lambda f: cell(f, -1, "test_top1_error", 8.333)), "history",
        "iteration 64000: test_top1_error 8.333 is no whole number of errors among 10000 images"),
    "a training error no number of images gives": (
        RESNET, renewed(lambda f: cell(f, 4, "train_top1_error", 70.0001)), "history", "among 49920 images"),
    "an error of 101": (RESNET, renewed(lambda f: cell(f, 4, "test_top1_error", 101)), "history", "is no percentage"),
    "an error below 0": (RESNET, renewed(lambda f: cell(f, 4, "train_top1_error", -1)), "history", "is no percentage"),
    "a top-5 error above the top-1 error": (
        IMAGENET, renewed(lambda f: cell(f, 4, "val_top5_error", 100)), "history", "is above val_top1_error"),
    "a val error of other images than ImageNet's": (
        IMAGENET, renewed(lambda f: cell(f, 4, "val_top1_error", 90.001)), "history", "among 50000 images"),
    "a val error of other images than the 5,000": (
        PLATEAU, renewed(lambda f: cell(f, 4, "val_top1_error", 80.01)), "history", "among 5000 images"),
    "another error everywhere but with averaged statistics": (
        RESNET, renewed(lambda f: put_everywhere(f, 51.25)), "result",
        "test_top1_error 8.75 %, the same weights with averaged BN statistics 51.25: more than 5 points apart"),
    "a commit made up": (RESNET, lambda f: put(f, "0" * 40, "sessions", 0, "commit"), "schema",
                         "is not the 40 hexadecimal digits of a commit"),
    "a loss below 0": (RESNET, renewed(lambda f: cell(f, 4, "train_loss", -0.1)), "history", "is below 0"),
    "a loss that is too small for its errors": (
        RESNET, renewed(lambda f: cell(f, 0, "test_loss", 0.2)), "history", "is less than"),
    "NaN in the history": (RESNET, lambda f: cell(f, 4, "train_loss", "nan"), "history",
                           "line 6: train_loss 'nan' is no f"),
    "a huge number": (RESNET, lambda f: cell(f, 4, "train_loss", "1e999"), "history", "no finite number"),
    "a doubled row": (RESNET, renewed(lambda f: lines(f, lambda x: x.insert(5, x[5]))), "history",
                      "has iteration 1950 twice"),
    "a missing row": (RESNET, renewed(lambda f: lines(f, lambda x: x.pop(5))), "history", "lacks iteration 1950"),
    "the end missing": (RESNET, renewed(lambda f: lines(f, lambda x: x.pop())), "history",
                        "ends at iteration 63960 of 64000"),
    "rows after the end": (RESNET, renewed(lambda f: lines(f, lambda x: x.append(x[-1].replace("64000", "64390", 1)))),
                           "history", "has iteration 64390, where the schedule has no test"),
    "a test at another iteration": (RESNET, renewed(lambda f: cell(f, 4, "iteration", 1949)), "history",
                                    "has iteration 1949, where the schedule has no test"),
    "rows in another order": (RESNET, renewed(lambda f: lines(f, swap_rows)), "history", "lacks iteration 1950"),
    "a torn last line": (RESNET, lambda f: (f / H).write_text((f / H).read_text()[:-9]), "history", "torn"),
    "another column": (RESNET, lambda f: lines(f, lambda x: x.__setitem__(0, x[0].replace("test_loss", "loss"))),
                       "history", "its first line is"),
    "a cell too many": (RESNET, lambda f: cell(f, 2, "test_loss", "1,2"), "history", "line 4 has 7 cells, not 6"),
    "an empty history": (RESNET, lambda f: lines(f, lambda x: x.__delitem__(slice(1, None))), "history", "no line"),
    "fewer iterations in run.json": (RESNET, lambda f: put(f, 32000, "iterations"), "history", "iterations 32000"),
    "an unfinished run": (RESNET, lambda f: put(f, "interrupted", "status"), "history", "not finished"),
    "another split": (RESNET, lambda f: put(f, "val", "evaluated_on"), "history", "evaluated on val"),
    # schedule
    "another learning rate": (RESNET, renewed(lambda f: cell(f, 100, "learning_rate", 0.1)), "schedule",
                              "learning rate 0.1; the schedule gives 0.01"),
    "a drop of the plateau rule elsewhere": (PLATEAU, renewed(lambda f: cell(f, -1, "learning_rate", 0.1)), "schedule",
                                             "the schedule gives"),
    "a warm-up where there is none": (RESNET, lambda f: put(f, 400, "warmup_end"), "schedule", "has no warm-up"),
    "a warm-up that is too long": (
        "warmup", lambda f: put(f, 2500, "warmup_end"), "schedule", "can end from iteration 100 to 2000"),
    "a warm-up that never ends": ("warmup", lambda f: put(f, None, "warmup_end"), "schedule", "no warmup_end"),
    "a fixed warm-up of another length": ("fixed", lambda f: put(f, 399, "warmup_end"), "schedule", "400 to 400"),
    "a rate of the warm-up that it has not": ("warmup", renewed(lambda f: cell(f, 0, "learning_rate", 0.1)), "schedule",
                                              "the schedule gives 0.01"),
    # result
    "a cherry-picked result": (RESNET, lambda f: edit(f, lambda r: r["result"].update(test_top1_error=8.0)), "result",
                               "test_top1_error 8.0, the last row 8.5; the last iteration is the result"),
    "the best row as the result": (RESNET, lambda f: put(f, 63960, "result", "iteration"), "result", "63960"),
    "a result with more": (RESNET, lambda f: put(f, 8.0, "result", "test_top5_error"), "result", "test_top5_error"),
    "a result that is text": (RESNET, lambda f: put(f, "8.5", "result", "test_top1_error"), "result", "'8.5'"),
    "another best test error": (RESNET, lambda f: put(f, 7.9, "best_on_test", "test_top1_error"), "result",
                                "best_on_test is"),
    "no best test error": (RESNET, lambda f: remove(f, "best_on_test"), "result", "best_on_test is None"),
    "a best error on val": (IMAGENET, lambda f: put(f, {"iteration": 5000, "test_top1_error": 20.0}, "best_on_test"),
                            "result", "not tested on a test set"),
    "averaged statistics of other images": (RESNET, lambda f: put(f, 1000, "recomputed_batch_norm", "images"), "result",
                                            "of 1000 images; the configuration takes 12800"),
    "an averaged error that can't be": (RESNET, lambda f: put(f, 8.123, "recomputed_batch_norm", "test_top1_error"),
                                        "result", "recomputed_batch_norm: test_top1_error 8.123"),
    "an averaged error of another split": (
        RESNET, lambda f: put(f, 8.5, "recomputed_batch_norm", "val_top1_error"), "result", "due are test_loss"),
    # schema
    "a later schema": (RESNET, lambda f: put(f, 2, "schema"), "schema", "schema: 2 is not 1"),
    "a key that is missing": (RESNET, lambda f: remove(f, "parameters"), "schema", "parameters is missing"),
    "a misspelt key": (RESNET, lambda f: put(f, 1, "paramters"), "schema",
                       "unknown key paramters; did you mean parameters?"),
    "a misspelt key of a session": (RESNET, lambda f: put(f, 1, "sessions", 1, "commmit"), "schema",
                                    "unknown key sessions.1.commmit; did you mean commit?"),
    "a number as text": (RESNET, lambda f: put(f, "269722", "parameters"), "schema", "is not a whole number from 0"),
    "a truth value as a number": (RESNET, lambda f: put(f, True, "seed"), "schema", "seed: True is not a whole number"),
    "a negative time": (RESNET, lambda f: put(f, -1.0, "train_seconds"), "schema", "is not a number from 0"),
    "no sessions": (RESNET, lambda f: put(f, [], "sessions"), "schema", "sessions: [] is not a list of sessions"),
    "a commit that is none": (RESNET, lambda f: put(f, "main", "sessions", 0, "commit"), "schema", "40 hexadecimal"),
    "a time without a zone": (RESNET, lambda f: put(f, "2026-05-01T00:00:00", "started"), "schema", "is not a time"),
    "a date that does not exist": (RESNET, lambda f: put(f, "2026-02-30T00:00:00+00:00", "ended"), "schema", "time"),
    "an identity that is none": (RESNET, lambda f: put(f, "../../..", "identity"), "schema", "12 hexadecimal digits"),
    # configuration
    "an experiment that does not exist": (RESNET, lambda f: put(f, "cifar_resnet21", "experiment"), "configuration",
                                          "did you mean cifar_resnet20?"),
    "a misspelt setting": (RESNET, lambda f: put(f, 0.1, "config", "train", "lrr"), "configuration",
                           "unknown key train.lrr"),
    "a setting left out": (RESNET, lambda f: remove(f, "config", "train", "momentum"), "configuration",
                           "no value for train.momentum"),
    "no depth of an ImageNet network": (IMAGENET, lambda f: remove(f, "config", "model", "depth"), "configuration",
                                        "no value for model.depth"),
    "a setting out of its range": (RESNET, lambda f: put(f, 2, "config", "train", "momentum"), "configuration",
                                   "train.momentum=2.0: allowed is"),
    "a number in quotes": (RESNET, lambda f: put(f, "0.1", "config", "train", "lr"), "configuration", "lr: '0.1'"),
    "a choice that does not exist": (RESNET, lambda f: put(f, "D", "config", "model", "shortcut_option"),
                                     "configuration", "allowed is A or B or C"),
    "a list in the place of a section": (RESNET, lambda f: put(f, [1], "config", "train"), "configuration",
                                         "train: [1] is no section"),
    "a section in the place of a value": (RESNET, lambda f: put(f, {"a": 1}, "config", "train", "lr"), "configuration",
                                          "train.lr: a mapping where one value is due"),
    "a key with a dot that shadows another": (RESNET, lambda f: put(f, 0.2, "config", "train.lr"), "configuration",
                                              "unknown key train.lr"),
    "a precision left open": (RESNET, lambda f: put(f, "auto", "config", "machine", "precision"), "configuration",
                              "machine.precision=auto"),
    "a device left open": (RESNET, lambda f: put(f, "auto", "config", "machine", "device"), "configuration",
                           "machine.device=auto"),
    "a list without end": (RESNET, lambda f: put(f, list(range(1, 5000)), "config", "train", "lr_drops"),
                           "configuration", "a list of 4999 entries"),
    # who it is
    "a setting changed in run.json": (RESNET, lambda f: put(f, 0.2, "config", "train", "lr"), "identity",
                                      "that of the recorded configuration is"),
    "a setting changed in config.yaml": (RESNET, lambda f: (f / "config.yaml").write_text(
        (f / "config.yaml").read_text().replace("momentum: 0.9", "momentum: 0.8")), "config.yaml",
        "config.yaml says train.momentum: 0.8, run.json 0.9"),
    "a setting more in config.yaml": (RESNET, lambda f: (f / "config.yaml").write_text(
        (f / "config.yaml").read_text() + "cheat: true\n"), "config.yaml", "config.yaml says cheat: True"),
    "another seed in the record": (RESNET, lambda f: put(f, 3, "seed"), "identity", "the record is of seed 3"),
    "another seed in the configuration": (RESNET, lambda f: put(f, 3, "config", "seed"), "identity",
                                          "its configuration of 3"),
    "another seed everywhere but in the folder's name": (RESNET, lambda f: renamed(f, 3), "folder",
                                                         "called seed0, the record is of seed 3"),
    "another experiment's name": (RESNET, lambda f: put(f, "cifar_resnet32", "config", "name"), "identity",
                                  "its configuration of 'cifar_resnet32'"),
    "another precision in the environment": (RESNET, lambda f: put(f, "bf16", "environment", "precision"), "identity",
                                             "the environment names precision bf16"),
    "deviations not confessed": (RESNET, hidden, "deviations",
                                 "not among the recorded deviations: train.weight_decay: 0.0001 -> 0.0005"),
    "a deviation that is none": (RESNET, lambda f: put(f, ["train.lr: 0.1 -> 0.2"], "deviations"), "deviations",
                                 "recorded as a deviation, but is none"),
    "a deviating run among the paper's": (RESNET, hidden, "folder", "in the folder of the paper's runs of cifar_res"),
    "another identity in the folder's name": (SHORTENED, lambda f: put(f, "0" * 12, "identity"), "folder",
                                              "it lies in a folder of identity"),
    # timing.csv
    "timing of other iterations": (RESNET, lambda f: cell(f, 3, "iteration", 1561, name=T), "timing",
                                   "the iterations of timing.csv and history.csv differ"),
    "a row of timing left out": (RESNET, lambda f: lines(f, lambda x: x.pop(4), T), "timing", "differ"),
    "a training time below 0": (RESNET, lambda f: cell(f, 3, "train_seconds", -5, name=T), "timing", "not above 0"),
    "a test that took negative time": (RESNET, lambda f: cell(f, 3, "evaluation_seconds", -5, name=T), "timing",
                                       "evaluation_seconds -5 is not above 0"),
    "training time that falls": (RESNET, lambda f: cell(f, 3, "train_seconds", 20, name=T), "timing", "fall from"),
    "more training time than the record has": (RESNET, lambda f: cell(f, -1, "train_seconds", 5000, name=T), "timing",
                                               "ends with 5000 s of training"),
    "more time of tests than the record has": (
        RESNET, lambda f: cell(f, -1, "evaluation_seconds", 500, name=T), "timing", "the tests of timing.csv took"),
    "a time that is none": (RESNET, lambda f: cell(f, 3, "utc", "yesterday", name=T), "timing", "is no time in UTC"),
    "a row that lies before the one above it": (RESNET, lambda f: moved_row(f, 3, -100), "sessions", "lies before"),
    "a row from before the run": (RESNET, lambda f: moved_row(f, 0, -86400), "sessions", "lies before"),
    "a row from after the run": (RESNET, lambda f: moved_row(f, -2, 86400), "sessions", "after the end of session 2"),
    "more training than time has passed": (
        RESNET, lambda f: lines(f, lambda x: x.__setitem__(slice(20, None), [
            ",".join([a, str(float(b) + 300), *rest]) for a, b, *rest in (line.split(",") for line in x[20:])]), T),
        "sessions", "332.0 s of training and a test in 32 s"),
    "a speed that does not fit": (RESNET, lambda f: cell(f, 50, "images_per_second", 9999.9, name=T), "sessions",
                                  "9999.9 images/s do not fit"),
    "a speed of 0": (RESNET, lambda f: cell(f, 50, "images_per_second", 0, name=T), "timing", "images_per_second 0"),
    # sessions
    "sessions with a hole": (RESNET, lambda f: put(f, 32370, "sessions", 1, "from_iteration"), "sessions", "a hole"),
    "a beginning that is missing": (RESNET, lambda f: remove(f, "sessions", 0), "sessions", "ended at 0: a hole"),
    "an end that is missing": (RESNET, lambda f: remove(f, "sessions", 1), "sessions", "ends at iteration 31980 of"),
    "a session that goes back": (RESNET, lambda f: put(f, 100, "sessions", 1, "to_iteration"), "sessions", "back to 1"),
    "sessions in another order of time": (
        RESNET, lambda f: put(f, "2026-04-01T00:00:00+00:00", "sessions", 1, "started"), "sessions", "lies before"),
    "a run that started otherwise": (RESNET, lambda f: put(f, "2026-04-01T00:00:00+00:00", "started"), "sessions",
                                     "its first session"),
    "an end before the end": (RESNET, lambda f: put(f, "2026-05-01T00:10:00+00:00", "ended"), "sessions",
                              "the end of the run"),
    "more seconds than the sessions had": (RESNET, lambda f: put(f, 90000.0, "train_seconds"), "sessions",
                                           "s of training and tests in sessions of"),
    "another device than that of the last session": (RESNET, lambda f: put(f, "H100", "environment", "device"),
                                                     "sessions", "the environment names device 'H100'"),
    # what it ran on
    "other parameters": (RESNET, lambda f: put(f, 269723, "parameters"), "parameters", "has 269,722 (golden_counts"),
    "parameters of another option": (IMAGENET, lambda f: put(f, 21623848, "parameters"), "parameters", "21,797,672"),
    "other images": (RESNET, lambda f: put(f, "0" * 64, "data", "sha256"), "data", "those of CIFAR-10 as published"),
    "another data set in the record": (RESNET, lambda f: put(f, "imagenet", "data", "name"), "data", "data.name is"),
    "another split of the images": (RESNET, lambda f: put(f, "45k", "data", "split"), "data", "data.split is '45k'"),
    "one folder for both sets": (IMAGENET, lambda f: put(f, True, "data", "one_folder"), "data", "a wiring test"),
    # layers
    "changed responses": (RESNET, lambda f: cell(f, 3, "std", 0.6, name=R), "layers", "responses.csv was changed"),
    "changed gradients": (RESNET, lambda f: cell(f, 3, "norm", 0.6, name="gradients.csv"), "layers",
                          "gradients.csv was changed"),
    "responses not sent": (RESNET, lambda f: (f / R).unlink(), "layers", "which was not sent"),
    "responses without a hash": (RESNET, lambda f: remove(f, "responses"), "layers", "no hash of it"),
    "responses of other images": (RESNET, lambda f: put(f, 500, "responses", "images"), "layers", "of 500 images"),
    "a layer left out": (RESNET, lambda f: lines(f, lambda x: x.pop(), R), "layers", "this network has 19"),
    "channels of another network": (RESNET, lambda f: cell(f, 3, "channels", 64, name=R), "layers", "it has 16"),
    "a spread below 0": (RESNET, lambda f: cell(f, 3, "std", -1, name=R), "layers", "is below 0"),
    "gradients of another iteration": (
        RESNET, lambda f: lines(f, lambda x: x.append("500,1,conv1,0.1"), "gradients.csv"), "layers", "asks for"),
    "a gradient that is text": (RESNET, lambda f: cell(f, 3, "norm", "inf", name="gradients.csv"), "layers",
                                "'inf' is no finite number"),
}
TEN = "evaluations/ten_crop.json"
TESTS = {
    "other counts than the error": (lambda f: put(f, 12000, "top1_errors", name=TEN), "says 25.0 % for 12000 errors"),
    "another error than the counts": (lambda f: put(f, 24.0, "val_top1_error", name=TEN), "says 24.0 %"),
    "more top-5 errors than top-1": (lambda f: put(f, 20000, "top5_errors", name=TEN), "no counts of errors that"),
    "fewer images": (lambda f: both(f, lambda f: put(f, 1000, "images", name=TEN),
                                    lambda f: put(f, 1000, "images_done", name=TEN)), "was on 1000 images, not 50000"),
    "images left out": (lambda f: put(f, 49999, "images_done", name=TEN), "images_done is 49999, not 50000"),
    "an unfinished test": (lambda f: put(f, False, "finished", name=TEN), "is not finished"),
    "other weights": (lambda f: put(f, "0" * 64, "weights_sha256", name=TEN), "of other weights"),
    "another seed": (lambda f: put(f, 1, "seed", name=TEN), "ten_crop: seed is 1, not 0"),
    "another run": (lambda f: put(f, "0" * 12, "identity", name=TEN), "identity is '000000000000'"),
    "another protocol": (lambda f: put(f, "center", "protocol", name=TEN), "protocol is 'center', not 'ten_crop'"),
    "another way of testing": (lambda f: put(f, "144 crops", "definition", name=TEN), "definition is '144 crops'"),
    "other lengths": (lambda f: put(f, [224], "settings", "shorter_sides", name=TEN), "shorter_sides is [224]"),
    "another network": (lambda f: put(f, 50, "model", "depth", name=TEN), "its network has depth 50"),
    "a wiring test": (lambda f: put(f, True, "wiring_test", name=TEN), "is a wiring test"),
    "the training images": (lambda f: put(f, True, "one_folder", name=TEN), "one_folder is True"),
    "fewer classes": (lambda f: put(f, 10, "classes", name=TEN), "classes is 10, not 1000"),
    "a misspelt key": (lambda f: put(f, 1, "imags", name=TEN), "unknown key imags; did you mean images?"),
    "no JSON": (lambda f: (f / TEN).write_text("{"), "evaluations/ten_crop.json: no JSON"),
    "tests of different images": (lambda f: put(f, "0" * 64, "data_fingerprint", name=TEN), "are of different images"),
}

WARNINGS = {
    "uncommitted changes": (RESNET, lambda f: put(f, True, "sessions", 0, "dirty"), "code",
                            "session 1: the tree had uncommitted changes"),
    "no commit": (RESNET, lambda f: put(f, None, "sessions", 1, "commit"), "code", "the commit was not recorded"),
    "two commits": (RESNET, lambda f: put(f, "fedcba98" * 5, "sessions", 1, "commit"), "code", "2 different commits"),
    "no version": (RESNET, lambda f: put(f, None, "sessions", 0, "numpy"), "code", "version of numpy"),
    "a session that goes on from before": (RESNET, lambda f: put(f, 31900, "sessions", 1, "from_iteration"), "sessions",
                                           "was a checkpoint damaged?"),
    "a folder of the sender": (RESNET, lambda f: put(f, "/home/me", "config", "data", "root"), "identity",
                               "names a folder of the sender's machine"),
    "a test of other files": (IMAGENET, lambda f: put(f, "0" * 64, "data", "sha256"), "evaluations",
                              "another fingerprint"),
    "weights without a hash": (IMAGENET, lambda f: remove(f, "weights_sha256"), "evaluations", "no hash of the"),
    "a worse 10-crop": (IMAGENET, lambda f: both(f, lambda f: put(f, 15000, "top1_errors", name=TEN),
                                                 lambda f: put(f, 30.0, "val_top1_error", name=TEN)),
                        "evaluations", "which is worse than the run's own test of one crop"),
    "a published error that is far off": (IMAGENET, lambda f: both(
        f, lambda f: put(f, 10000, "top1_errors", name=TEN), lambda f: put(f, 20.0, "val_top1_error", name=TEN)),
        "plausibility", "top1_error 20.00 % is 4.52 points better than the 24.52 of ResNet-34 B in table3"),
    "an error far below the published one": (
        RESNET, renewed(lambda f: cell(f, -1, "test_top1_error", 5.5)), "plausibility",
        "test_top1_error 5.50 % is 3.25 points better than the 8.75 of ResNet-20"),
    "a test error below the training error": (
        RESNET, renewed(lambda f: cell(f, -1, "test_top1_error", 1.5)), "plausibility", "below its training error"),
    "a loss that does not fall": (RESNET, renewed(lambda f: cell(f, -1, "train_loss", 9)), "plausibility", "not fall"),
    "a network that knows everything at once": (
        RESNET, renewed(lambda f: cell(f, 0, "train_top1_error", 10)), "plausibility", "a network that knows nothing"),
    "a row used twice": (RESNET, renewed(lambda f: lines(f, lambda x: x.__setitem__(
        9, ",".join([x[9].split(",")[0], *x[8].split(",")[1:]])))), "plausibility", "same training loss in every"),
    "a time to come": (RESNET, lambda f: put(f, "2999-01-01T00:00:00+00:00", "ended"), "plausibility",
                       "a time that has not come yet"),
    "a speed that no device has": (RESNET, lambda f: put(f, 0.01, "train_seconds"), "plausibility",
                                   "operations per second on a device"),
}
