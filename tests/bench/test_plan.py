"""What a command line of `repro bench` asks for."""

import pytest

from repro.bench.plan import CONTENDERS, Job, config_of, depths_for, jobs_of, settings_of
from repro.errors import ConfigError
from repro.schema import Device, Precision


def test_the_usual_networks_and_contenders_of_each_device():
    full, quick = settings_of([], False), settings_of([], True)
    assert depths_for(full, Device.cpu) == (20, 56)
    assert depths_for(full, Device.cuda) == (20, 56, 110, 1202)
    assert depths_for(quick, Device.cuda) == (20,)
    assert [job.contender for job in jobs_of(full, 20, Device.cpu)] == list(CONTENDERS)
    assert [job.contender for job in jobs_of(full, 1202, Device.cuda)] == ["repro", "eager_loop"]
    assert [job.contender for job in jobs_of(quick, 20, Device.cpu)] == ["repro", "dataloader"]
    assert (full.rounds, quick.rounds) == (5, 2)


def test_all_can_be_chosen():
    settings = settings_of(["nets=8,20", "contenders=repro:graph,dataloader", "rounds=7", "steps=11",
                            "machine.precision=bf16"], False)
    assert (settings.rounds, depths_for(settings, Device.cuda)) == (7, (8, 20))
    jobs = jobs_of(settings, 8, Device.cpu)
    assert [(job.contender, job.steps) for job in jobs] == [("repro:graph", 11), ("dataloader", 11)]
    assert jobs[0].overrides == ("machine.precision=bf16",)


def test_a_job_survives_the_command_line():
    job = Job("eager_loop", 20, ("data.root='a b'",), 3, 4, 100)
    assert Job.of(job.text()) == job


@pytest.mark.parametrize(("word", "said"), [
    ("nets=21", "6n\\+2"), ("nets=x", "nets=x"), ("nets=20,", "nets="), ("rounds=0", "rounds=0"),
    ("steps=-1", "steps=-1"), ("contenders=eagerloop", "did you mean eager_loop"),
    ("contenders=repro:grap", "did you mean repro:graph"), ("experiment=cifar_plain20", "nets=DEPTH"),
    ("model.depth=20", "nets=DEPTH"), ("machine.presision=fp32", "precision"), ("nets", "nets=: allowed"),
    ("quick", "not key=value")])
def test_what_is_wrong_is_named(word, said):
    with pytest.raises(ConfigError, match=said):
        settings_of([word], False)


def test_the_configuration_is_the_experiment_with_another_rate():
    config = config_of(110, ())
    assert (config.name, config.train.lr, config.model.depth) == ("cifar_resnet110", 0.01, 110)
    assert config_of(8, ("model=plain",)).model.depth == 8
    assert config_of(20, ("train.lr=0.5", "machine.precision=bf16")).train.lr == 0.5
    assert config_of(20, ("machine.precision=bf16",)).machine.precision is Precision.bf16
