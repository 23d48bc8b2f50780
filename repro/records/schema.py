"""The keys that a record may have and the kind of value of each: run.json and evaluations/PROTOCOL.json."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from repro.records.reading import Refused

Kinds = dict[str, Any]
Text = Annotated[str, Meta(max_length=300)]
Whole = Annotated[int, Meta(ge=0)]
Number = Annotated[float, Meta(ge=0)]
Percent = Annotated[float, Meta(ge=0, le=100)]
Time = Annotated[datetime, Meta(tz=True)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
ConfigHash = Annotated[str, Meta(pattern=r"^[0-9a-f]{12}\Z")]
Commit = Annotated[str, Meta(pattern=r"^(?!(.)\1*\Z)[0-9a-f]{40}\Z")]  # 40 equal digits are made up
Version = Annotated[str, Meta(pattern=r"^[0-9][0-9A-Za-z.+!-]{0,60}\Z")]
Split = Literal["test", "val"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
Mapping = dict[str, Any]


def struct(name: str, kinds: Kinds, optional: Iterable[str] = ()) -> Any:
    """A msgspec.Struct that has these keys and no others; the optional ones may be absent."""
    fields = [(key, kind | UnsetType, UNSET) if key in optional else (key, kind) for key, kind in kinds.items()]
    return msgspec.defstruct(name, fields, kw_only=True, forbid_unknown_fields=True,
                             rename={"hydra_core": "hydra-core"})


PACKAGES: Kinds = dict.fromkeys(("python", "torch", "torchvision", "hydra_core", "omegaconf", "numpy"), Version | None)
CODE: Kinds = {"repro": Version | None, "commit": Commit | None, "dirty": bool | None}
Evaluation = struct("Evaluation", {
    "schema": Literal[1], "protocol": Text, "definition": Text, "experiment": Text, "seed": Whole | None,
    "identity": ConfigHash | None, "deviations": list[str] | None, "weights_sha256": Sha256,
    "data_fingerprint": Sha256, "split": Text, "wiring_test": bool, "one_folder": bool, "model": Mapping,
    "settings": struct("ViewSettings", {"shorter_sides": list[Whole], "crop_size": Whole,
                                        "normalisation_sha256": Sha256}),
    "precision": Precision, "decoder": Text, "versions": struct("Packages", PACKAGES), **CODE, "device": Text,
    "images": Whole, "classes": Whole, "images_done": Whole, "top1_errors": Whole, "top5_errors": Whole,
    "finished": bool, "val_top1_error": Percent, "val_top5_error": Percent, "probabilities_sha256": Sha256,
    "labels_sha256": Sha256, "utc": Time}, ["decoder", "images_done"])


def check_schema(value: dict[str, Any], kind: Any) -> None:
    """Refused with the first key that is unknown, missing or of another kind."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise Refused(str(error).replace("$.", "")) from error
