"""`repro bench input`: settings, the comparison before it, a real round of each way, the record and its table."""

import json
from itertools import chain

import numpy as np
import pytest
from PIL import Image

from repro.bench import bench as bench_module
from repro.bench import input as input_module
from repro.bench.input import bench_input, compare, image_folder
from repro.bench.input_baseline import main, normalize_colors, plain_images, requests
from repro.bench.input_plan import CONTENDERS, PLAIN, InputJob, input_settings
from repro.errors import ComparisonError, ConfigError, DataError
from repro.reporting.bench import input_table
from tests.outcome import says

PER_CORE = {PLAIN: (200, 190, 210, 205, 195), "pillow": (400, 450, 500, 480, 470)}


@pytest.fixture
def images(tmp_path):
    """Four small photographs of two classes, as JPEGs."""
    generator = np.random.default_rng(0)
    for number in range(4):
        folder = tmp_path / "root" / "val" / f"n{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        coarse.resize((320, 240), Image.Resampling.BICUBIC).save(folder / f"{number}.JPEG")
    return tmp_path / "root"


class Made:
    """What processes would have printed; `asked` holds the jobs in order."""

    def __init__(self, failing=()):
        self.asked, self.failing = [], failing

    def __call__(self, job):
        self.asked.append(job)
        if job.contender in self.failing:
            return {"failed": "RuntimeError: made to fail"}
        count = [one.contender for one in self.asked].count(job.contender)
        rate = PER_CORE.get(job.contender, (300,) * 5)[(count - 1) % 5]
        return {"images_per_second": rate / 2, "images_per_core_second": rate}


@pytest.fixture
def made(monkeypatch):
    one = Made()
    monkeypatch.setattr(input_module, "fresh_process", one)
    monkeypatch.setattr(bench_module, "fresh_process", None)
    return one


def test_settings_are_read_and_wrong_ones_told():
    settings = input_settings(["data.root=/somewhere", "rounds=7", "images=50", "workers=3"], False)
    assert (settings.root, settings.rounds, settings.images, settings.workers) == ("/somewhere", 7, 50, 3)
    assert input_settings([], False).rounds == 5
    assert input_settings([], True).rounds < 5
    with pytest.raises(ConfigError, match=r"no key 'image'.*did you mean"):
        input_settings(["image=3"], False)
    with pytest.raises(ConfigError, match="workers=0"):
        input_settings(["workers=0"], False)


def test_a_job_survives_its_line():
    job = InputJob("pillow:threads", "/a b/ü", 9, 2)
    assert InputJob.of(job.text()) == job


@pytest.mark.parametrize("contender", CONTENDERS)
def test_each_way_reads_images_and_is_timed(images, contender, capsys, monkeypatch):
    monkeypatch.setattr("torch.set_num_threads", lambda threads: None)  # the test's own process keeps its threads
    main(InputJob(contender, str(images / "val"), 6, 2).text())
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {"images_per_second", "images_per_core_second"}
    assert min(result.values()) > 1


def test_a_way_that_fails_says_why(tmp_path, capsys):
    main(InputJob("pillow", str(tmp_path / "nowhere"), 6, 2).text())
    assert "FileNotFoundError" in json.loads(capsys.readouterr().out)["failed"]


def test_the_plain_way_gives_what_a_network_takes(images):
    image, label = plain_images(str(images / "val"))[3]
    assert image.shape == (3, 224, 224)
    assert str(image.dtype) == "torch.float32"
    assert label == 1


def test_what_is_left_to_the_device_is_mean_and_noise_of_the_right_size():
    import torch

    crops, mean = torch.full((2, 4, 4, 3), 100, dtype=torch.uint8), torch.full((3, 4, 4), 30.0)
    found = normalize_colors(crops, torch.tensor([0, 1]), mean) - 70
    assert found.shape == (2, 3, 4, 4)
    assert (found == found[:, :, :1, :1]).all()
    assert 0 < float(found.abs().max()) < 255 * 0.1 * 0.2175 * 6.7


def test_requests_go_on_in_mini_batches():
    assert [len(batch) for batch in requests(70)] == [32, 32, 6]
    assert [request[0] for request in chain(*requests(70))] == list(range(70))


def test_crops_are_compared_with_the_plain_way_first(images, monkeypatch):
    files = sorted((images / "val").glob("*/*"))
    assert compare(files)["largest_difference"] <= 2
    ours = input_module.random_crop
    monkeypatch.setattr(input_module, "random_crop", lambda *words: np.roll(ours(*words), 2, axis=1))
    with pytest.raises(ComparisonError, match="not those of the plain way"):
        compare(files)


def test_the_folder_is_val_or_train_or_the_root_itself(images, tmp_path):
    assert image_folder(str(images)) == images / "val"
    assert image_folder(str(images / "val")) == images / "val"
    with pytest.raises(ConfigError, match="no such folder"):
        image_folder(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"data\.root"):
        bench_input(input_settings([f"data.root={tmp_path / 'empty'}"], False))


def test_rounds_are_interleaved_and_medians_compared(images, made):
    record = bench_input(input_settings([f"data.root={images}", "workers=3"], False))
    assert [job.contender for job in made.asked] == list(CONTENDERS) * 5
    assert {job.workers for job in made.asked} == {3}
    found = {one["contender"]: one for one in record["contenders"]}
    assert set(found) == set(CONTENDERS)
    assert found["pillow"]["images_per_core_second"]["values"] == [400, 450, 500, 480, 470]
    assert found["pillow"]["over_plain"] == 470 / 200
    table = input_table(record)
    cells = {row.key: row.cells for row in table.rows}
    assert cells["pillow"]["ratio"] == "2.35"
    assert (cells["pillow"]["core"], cells["pillow"]["spread"]) == ("470", "400 to 500")
    assert cells["pillow:processes"]["processes"] == "3 processes"
    assert "made" not in table.title
    assert str(images) not in table.markdown() + json.dumps(record)


def test_a_way_that_fails_is_in_the_record_with_its_reason(images):
    made = Made(failing=("pillow:threads", PLAIN))
    record = bench_input(input_settings([f"data.root={images}", "rounds=2"], False), made)
    assert [job.contender for job in made.asked].count("pillow:threads") == 1
    found = {one["contender"]: one for one in record["contenders"]}
    assert found[PLAIN]["status"] == "failed"
    assert found["pillow"]["over_plain"] is None
    assert "pillow:threads failed: RuntimeError: made to fail" in input_table(record).markdown()


def test_the_command_makes_images_where_there_are_none_and_says_so(made, direct, tmp_path, monkeypatch):
    monkeypatch.setattr(input_module, "MADE", 3)
    outcome = direct("bench", "input", "--quick")
    assert (outcome.code, outcome.err) == (0, "")
    assert "quick, no evidence: ImageNet input on" in outcome.out
    assert "(made images)" in outcome.out
    [path] = (tmp_path / "results" / "bench").glob("*.json")
    assert path.name.startswith("bench_input_")
    assert path.name.endswith("_made_quick.json")
    assert json.loads(path.read_text())["made"] is True


def test_the_command_refuses_what_is_no_evidence(made, direct):
    says(direct("bench", "input", "rounds=4", "--reference"), 2, "5 rounds or more")
    says(direct("bench", "input", "nets=20"), 2, "no key 'nets'")
    assert made.asked == []
