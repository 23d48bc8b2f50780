"""The table of layers, parameters and multiply-adds: counted here, beside what Table 1 and the text print."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal

from repro.paper import Column, GoldenCount, PublishedTable, golden_counts, published_table
from repro.reporting.table import Table, TableRow

NAME = "complexity"
CONVOLUTIONS_ONLY = ("vgg-16",)  # Sec. 3.3: its number leaves the fully-connected layers out, that of VGG-19 does not
AGREES, CUT, DIFFERS = "agrees", "agrees if cut, not rounded", "differs"
SIZES = {"cifar10": "32x32", "imagenet": "224x224"}
STRIDES = {"first_1x1": "first 1x1", "conv3x3": "3x3 (v1.5)"}
COLUMNS = {"net": "network", "image": "image", "shortcut": "shortcut option", "stride": "stride in", "layers": "layers",
           "parameters": "parameters", "multiply_adds": "multiply-adds", "convolutions": "of these in convolutions",
           "published": "published", "ratio": "counted / published", "verdict": "verdict"}


@dataclass(frozen=True)
class CountedNetwork:
    """One network as it was counted; multiply-adds are those of one image."""

    key: str  # as in experiments/published, "resnet-50"
    label: str
    dataset: str  # cifar10 or imagenet
    depth: int  # as in its name
    shortcut_option: str | None  # None: no shortcuts
    stride_in: str | None  # first_1x1 or conv3x3; None: no bottlenecks
    layers: int  # weighted ones, projections apart
    parameters: int
    convolution_multiply_adds: int
    fully_connected_multiply_adds: int

    @property
    def multiply_adds(self) -> int:
        """Convolutions, projections included, and fully-connected layers."""
        return self.convolution_multiply_adds + self.fully_connected_multiply_adds

    @property
    def row_key(self) -> str:
        """Another one for each network: 'imagenet/resnet-50-B-conv3x3'."""
        return "-".join([f"{self.dataset}/{self.key}", *filter(None, (self.shortcut_option, self.stride_in))])


def complexity_table(counted: Iterable[CountedNetwork]) -> Table:
    """The table of these networks, with a verdict wherever the paper prints a number."""
    networks = tuple(counted)
    published = published_table("table1")
    wrong = differences(networks)
    notes = (
        "multiply-adds: those of convolutions (projections included) and fully-connected layers for one image, counted "
        "on the networks themselves; layers: convolutions and fully-connected layers, projections apart",
        f"verdict: {AGREES}: rounded to the digits that the paper prints, the count is what it prints; {CUT}: it is "
        "what remains when its further digits are left out",
        "VGG-16: the paper's number counts the convolutions only and is held against them; VGG-19's counts all layers",
        "stride in: where a bottleneck that halves the map has its stride 2. The first 1x1 is the authors' network; "
        "the 3x3 (v1.5) is what others mostly train, another network under the same name",
        "options B and C on CIFAR-10 are not in the paper",
        *(f"not as in golden_counts.yaml: {text}" for text in wrong),
        *([] if wrong else ["what golden_counts.yaml holds of these networks agrees"]),
    )
    title = f"Layers, parameters and multiply-adds of the paper's networks, beside Table 1 (p. {published.page})"
    return Table(NAME, title, COLUMNS, tuple(table_row(net, published) for net in networks), notes)


def table_row(net: CountedNetwork, published: PublishedTable) -> TableRow:
    """One network: its counts, and the published number where there is one."""
    cells = {"net": net.label, "image": SIZES[net.dataset], "shortcut": net.shortcut_option or "-",
             "stride": STRIDES[net.stride_in] if net.stride_in else "-", "layers": f"{net.layers:,}",
             "parameters": f"{net.parameters:,}", "multiply_adds": shorten(net.multiply_adds),
             "convolutions": shorten(net.convolution_multiply_adds)}
    data = asdict(net) | {"multiply_adds": net.multiply_adds}
    printed = next((row for row in published.rows if (net.dataset, net.key) == ("imagenet", row.key)), None)
    if printed is None:
        return TableRow(net.row_key, cells, "counted", None, data)
    column, = published.columns
    value = printed.values[column.key]
    compared = net.convolution_multiply_adds if net.key in CONVOLUTIONS_ONLY else net.multiply_adds
    found = verdict(compared, value, column)
    cells |= {"published": shorten(value, column.decimals), "ratio": f"{compared / value:.3f}", "verdict": found}
    data |= {"published": value, "compared": compared, "ratio": round(compared / value, 6)}
    return TableRow(net.row_key, cells, "counted", found, data)


def shorten(count: float, decimals: int = 3) -> str:
    """'3.858e9' for 3857973248, '40.551e6' for 40551040."""
    power = 9 if count >= 1e9 else 6
    return f"{count / 10**power:.{decimals}f}e{power}"


def verdict(count: int, printed: float, column: Column) -> str:
    """Whether a count is the printed number in the digits of its column."""
    digits = Decimal(1).scaleb(-column.decimals)
    in_units, expected = Decimal(count) / Decimal(column.unit), Decimal(printed) / Decimal(column.unit)
    for rounding, text in ((ROUND_HALF_UP, AGREES), (ROUND_DOWN, CUT)):
        if in_units.quantize(digits, rounding) == expected:
            return text
    return DIFFERS


def differences(networks: Iterable[CountedNetwork]) -> list[str]:
    """What differs from golden_counts.yaml, one text for each count; parameters exactly, the rest as printed there."""
    golden = golden_counts().by_depth()
    return [f"{net.row_key}: {text}" for net in networks if net.depth in golden[net.dataset]
            for text in differences_of(net, golden[net.dataset][net.depth])]


def differences_of(net: CountedNetwork, golden: GoldenCount) -> list[str]:
    """What one network has else than its golden counts; a plain network has those of option A."""
    option = net.shortcut_option or "A"
    multiply_adds = (golden.multiply_adds_stride_in_3x3 if net.stride_in == "conv3x3"
                     else golden.multiply_adds.get(option))
    parameters = golden.parameters.get(option)
    found = [f"{net.layers} layers instead of {golden.layers}"] if net.layers != golden.layers else []
    if parameters is not None and net.parameters != parameters:
        found.append(f"{net.parameters} parameters instead of {parameters}")
    if multiply_adds is not None and abs(net.multiply_adds - multiply_adds) > half_a_digit(multiply_adds):
        found.append(f"{net.multiply_adds} multiply-adds instead of {multiply_adds:g}")
    return found


def half_a_digit(printed: float) -> float:
    """Half a unit of the last digit that is not zero: 500000 for 3.858e9."""
    exponent = Decimal(str(printed)).normalize().as_tuple().exponent
    assert isinstance(exponent, int)
    return 0.5 * 10.0**exponent
