"""What the record says of where a number comes from."""

from repro.provenance import slurm_job


def test_a_session_under_slurm_names_the_job_and_its_restarts(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    assert slurm_job() == {"slurm": {"job_id": "4711", "restarts": 0}}, "SLURM sets no count before the first restart"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert slurm_job() == {"slurm": {"job_id": "4711", "restarts": 2}}


def test_a_session_elsewhere_says_nothing_of_slurm(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert slurm_job() == {}
