"""Forgeries, each with the record that it is made of, how it is made, the check that finds it and some of its words."""

import yaml

from tests.records.made import cell, consistent, edit, lines, put, remove, set_everywhere

RESNET, IMAGENET, PLATEAU, SHORTENED = "resnet", "imagenet", "plateau", "shortened"
# What write_record makes them of.
MADE = {RESNET: ("cifar_resnet20",), "plain": ("cifar_plain56",), "warmup": ("cifar_resnet110",),
        IMAGENET: ("imagenet_optB",), "bottleneck": ("imagenet_resnet50",), SHORTENED: ("cifar_resnet20", "scale=0.01"),
        PLATEAU: ("cifar_resnet20", "data.split=45k", "train.lr_policy=plateau"),
        "recipe": ("cifar_resnet20", "recipe=fb")}


def both(folder, *changes):
    """Several changes one after the other."""
    for change in changes:
        change(folder)


def consistently(change):
    """A change of the history after which result, best test error and hash are renewed too."""
    return lambda folder: both(folder, change, consistent)


def change_seed(folder, seed):
    """Another seed in every file; the folder is renamed by the test."""
    put(folder, seed, "seed")
    put(folder, seed, "config", "seed")
    written = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(written | {"seed": seed}))


def change_in_secret(folder):
    """A setting changed in every file, but not confessed."""
    set_everywhere(folder, "train", "weight_decay", 0.0005)


def put_everywhere(folder, honest):
    """The last test error improved to the published one; what averaged statistics gave is left as it was."""
    cell(folder, -1, "test_top1_error", 8.75)
    put(folder, honest, "recomputed_batch_norm", "test_top1_error")


R, H = "responses.csv", "history.csv"
FORGERIES = {
    # history.csv
    "a cell changed": (RESNET, lambda f: cell(f, 3, "test_loss", 1.5), "result", "was changed after the run"),
    "a test error no number of images gives": (
        RESNET, consistently(lambda f: cell(f, -1, "test_top1_error", 8.333)), "history",
        "iteration 64000: test_top1_error 8.333 is no whole number of errors among 10000 images"),
    "an error of 101": (RESNET, consistently(lambda f: cell(f, 4, "test_top1_error", 101)), "history",
                        "is no percentage"),
    "a top-5 error above the top-1 error": (
        IMAGENET, consistently(lambda f: cell(f, 4, "val_top5_error", 100)), "history", "is above val_top1_error"),
    "another error everywhere but with averaged statistics": (
        RESNET, consistently(lambda f: put_everywhere(f, 51.25)), "result",
        "test_top1_error 8.75 %, the same weights with averaged BN statistics 51.25: more than 5 points apart"),
    "a commit made up": (RESNET, lambda f: put(f, "main", "sessions", 0, "commit"), "schema",
                         "at `sessions[0].commit`"),
    "a loss that is too small for its errors": (
        RESNET, consistently(lambda f: cell(f, 0, "test_loss", 0.2)), "history", "is less than"),
    "NaN in the history": (RESNET, lambda f: cell(f, 4, "train_loss", "nan"), "history",
                           "line 6: train_loss 'nan' is no f"),
    "a missing row": (RESNET, consistently(lambda f: lines(f, lambda x: x.pop(5))), "history", "lacks iteration 1950"),
    "the end missing": (RESNET, consistently(lambda f: lines(f, lambda x: x.pop())), "history",
                        "ends at iteration 63960 of 64000"),
    "a torn last line": (RESNET, lambda f: (f / H).write_text((f / H).read_text()[:-9]), "history", "torn"),
    "an unfinished run": (RESNET, lambda f: put(f, "interrupted", "status"), "history", "not finished"),
    "another split": (RESNET, lambda f: put(f, "val", "evaluated_on"), "history", "evaluated on val"),
    # schedule
    "another learning rate": (RESNET, consistently(lambda f: cell(f, 100, "learning_rate", 0.1)), "schedule",
                              "learning rate 0.1; the schedule gives 0.01"),
    "a warm-up that is too long": (
        "warmup", lambda f: put(f, 2500, "warmup_end"), "schedule", "can end from iteration 100 to 2000"),
    # result
    "a cherry-picked result": (RESNET, lambda f: edit(f, lambda r: r["result"].update(test_top1_error=8.0)), "result",
                               "test_top1_error 8.0, the last row 8.5; the last iteration is the result"),
    "another best test error": (RESNET, lambda f: put(f, 7.9, "best_on_test", "test_top1_error"), "result",
                                "best_on_test is"),
    # schema
    "a key that is missing": (RESNET, lambda f: remove(f, "parameters"), "schema",
                              "no parameters"),
    "a misspelled key": (RESNET, lambda f: put(f, 1, "paramters"), "schema", "unknown key paramters"),
    "a truth value as a number": (RESNET, lambda f: put(f, True, "seed"), "schema",
                                  "Expected `int`, got `bool` - at `seed`"),
    "an experiment that does not exist": (RESNET, lambda f: put(f, "cifar_resnet21", "experiment"), "schema",
                                          "did you mean cifar_resnet20?"),
    "a misspelled setting": (RESNET, lambda f: put(f, 0.1, "config", "train", "lrr"), "schema",
                           "unknown key config.train.lrr"),
    "a setting left out": (RESNET, lambda f: remove(f, "config", "train", "momentum"), "schema",
                           "no config.train.momentum"),
    "a setting out of its range": (RESNET, lambda f: put(f, 2, "config", "train", "momentum"), "schema",
                                   "train.momentum=2.0: allowed is"),
    "a precision left open": (RESNET, lambda f: put(f, "auto", "config", "machine", "precision"), "schema",
                              "machine.precision=auto"),
    # who it is
    "a setting changed in run.json": (RESNET, lambda f: put(f, 0.2, "config", "train", "lr"), "identity",
                                      "that of the recorded configuration is"),
    "a setting changed in config.yaml": (RESNET, lambda f: (f / "config.yaml").write_text(
        (f / "config.yaml").read_text().replace("momentum: 0.9", "momentum: 0.8")), "config.yaml",
        "config.yaml says train.momentum: 0.8, run.json 0.9"),
    "another seed in the record": (RESNET, lambda f: put(f, 3, "seed"), "identity",
                                   "the recorded seed is 3, that of the recorded configuration is 0"),
    "another seed everywhere but in the folder's name": (RESNET, lambda f: change_seed(f, 3), "folder",
                                                         "called seed0, the record is of seed 3"),
    "deviations not confessed": (RESNET, change_in_secret, "deviations",
                                 "not among the recorded deviations: train.weight_decay: 0.0001 -> 0.0005"),
    "a deviating run among the paper's": (RESNET, change_in_secret, "folder",
                                          "in the folder of the paper's runs of cifar_resnet20"),
    "another identity in the folder's name": (SHORTENED, lambda f: put(f, "0" * 12, "identity"), "folder",
                                              "it lies in a folder of identity"),
    # what it ran on
    "other parameters": (RESNET, lambda f: put(f, 269723, "parameters"), "parameters", "has 269,722 (golden_counts"),
    "other images": (RESNET, lambda f: put(f, "0" * 64, "data", "sha256"), "data", "those of CIFAR-10 as published"),
    "one folder for both sets": (IMAGENET, lambda f: put(f, True, "data", "one_folder"), "data", "a wiring test"),
    # layers
    "changed responses": (RESNET, lambda f: cell(f, 3, "std", 0.6, name=R), "layers", "responses.csv was changed"),
    "channels of another network": (RESNET, lambda f: cell(f, 3, "channels", 64, name=R), "layers", "it has 16"),
}
TEN = "evaluations/ten_crop.json"
TESTS = {
    "other counts than the error": (lambda f: put(f, 12000, "top1_errors", name=TEN), "says 25.0 % for 12000 errors"),
    "fewer images": (lambda f: put(f, 1000, "images", name=TEN), "has images=1000, not 50000"),
    "other weights": (lambda f: put(f, "0" * 64, "weights_sha256", name=TEN), "of other weights"),
    "another run": (lambda f: put(f, "0" * 12, "identity", name=TEN), "identity is '000000000000'"),
    "another network": (lambda f: put(f, 50, "model", "depth", name=TEN), "its network has depth 50"),
    "the training images": (lambda f: put(f, True, "one_folder", name=TEN), "one_folder is True"),
    "tests of different images": (lambda f: put(f, "0" * 64, "data_fingerprint", name=TEN), "are of different images"),
}

WARNINGS = {
    "uncommitted changes": (RESNET, lambda f: put(f, True, "sessions", 0, "dirty"), "code",
                            "session 1: the tree had uncommitted changes"),
    "no commit": (RESNET, lambda f: put(f, None, "sessions", 1, "commit"), "code", "the commit was not recorded"),
    "a folder of the sender": (RESNET, lambda f: set_everywhere(f, "data", "root", "/home/me"), "identity",
                               "names a folder of the sender's machine"),
    "a worse 10-crop": (IMAGENET, lambda f: both(f, lambda f: put(f, 15000, "top1_errors", name=TEN),
                                                 lambda f: put(f, 30.0, "val_top1_error", name=TEN)),
                        "evaluations", "which is worse than the run's own test of one crop"),
}
