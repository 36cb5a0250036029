"""What `hrgrid serve` refuses before anything starts, and to which names a server answers."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from jobs._serveaccess import accounts, allowed_hosts, listen_on, private_addresses
from jobs._serveplaces import claim, file_system
from jobs.cli import main
from orchestrator.errors import UsageError
from orchestrator.runstore import shown

SECRET = "a-secret-of-the-test"


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HRGRID_BACKEND", "MLFLOW_AUTH_ADMIN_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "lets whoever reaches this machine read, change and delete all runs"),
        (["--host", "head"], "is no address"),
        (["--host", "203.0.113.9", "--auth"], "nothing can listen on port"),
        (["--backend", "file:///runs"], "MLflow keeps no runs there"),
        (["--backend", "mysql://db/runs"], "runs are kept in sqlite:///... or postgresql://..."),
        (["--backend", f"postgresql://me:{SECRET}@db/runs"], "everybody on this machine can read a password there"),
        (["--backend", f"postgresql://db/runs?user=me&password={SECRET}"], "can read a password there"),
        (["--backend", "postgresql://me@127.0.0.1:9/runs"], "cannot be used: connection to server at"),
        (["--artifacts", "gs://bucket/runs"], "neither a local path nor s3://bucket/prefix"),
        (["--allowed-hosts", "*"], "lets any web page use the server"),
        (["--allowed-hosts", "http://head:5000"], "is no list of names"),
        (["--auth"], "put a password of 12 characters or more into a file"),
        (["--auth", "--admin-password-file", "none"], "none cannot be read"),
        (["--admin-password-file", "none"], "is for a server with --auth"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--folder", str(tmp_path), "--port", str(_free_port()), *options]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert SECRET not in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("password", ["short", "password1234"])
def test_a_poor_password_is_refused(
    password: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", password)
    assert main(["serve", "--folder", str(tmp_path), "--port", str(_free_port()), "--auth"]) == 2
    told = capsys.readouterr().err
    assert "the password in MLFLOW_AUTH_ADMIN_PASSWORD" in told
    assert password not in told


def test_a_database_of_the_environment_that_cannot_be_reached_keeps_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for address in (f"postgresql://me:{SECRET}@127.0.0.1:9/runs", f"postgresql://me:{SECRET}%zz@127.0.0.1:9/runs"):
        monkeypatch.setenv("HRGRID_BACKEND", address)
        assert main(["serve", "--folder", str(tmp_path), "--port", str(_free_port())]) == 2
        told = capsys.readouterr().err
        assert "the database postgresql://me:***@127.0.0.1:9/runs cannot be used" in told
        assert SECRET not in told


def test_a_port_that_is_taken_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--folder", str(tmp_path), "--port", str(port)]) == 2
    assert f"nothing can listen on port {port} of 127.0.0.1: Address already in use" in capsys.readouterr().err


def test_a_database_has_one_server(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    with (
        claim(database),
        pytest.raises(UsageError, match=rf"another hrgrid serve \(process \d+\) works on {database}"),
        claim(database),
    ):
        pass
    with claim(database) as held:
        assert held


def test_a_shared_file_system_is_seen_by_the_nearest_mount(tmp_path: Path) -> None:
    mounts = [("/", "ext4"), (str(tmp_path), "nfs4"), (str(tmp_path / "disk"), "xfs"), (str(tmp_path / "di"), "cifs")]
    assert file_system(tmp_path / "new" / "mlflow.db", mounts) == "nfs4"
    assert file_system(tmp_path / "disk" / "mlflow.db", mounts) == "xfs"
    assert file_system(Path("/var/mlflow.db"), mounts) == "ext4"


def test_names_are_answered_with_and_without_a_port() -> None:
    assert allowed_hosts("127.0.0.1", ()) == ("localhost", "localhost:*", "127.0.0.1", "127.0.0.1:*")
    beyond = allowed_hosts("10.1.2.3", ("mlflow.example.org", "balancer:80", "*.example.org"))
    own = socket.gethostname()
    assert {own, f"{own}:*", "10.1.2.3", "10.1.2.3:*", "mlflow.example.org:*", "balancer:80"} <= set(beyond)
    assert "balancer:80:*" not in beyond
    assert set(private_addresses()) <= set(allowed_hosts("0.0.0.0", ()))


def test_strangers_need_a_password() -> None:
    assert listen_on("localhost", auth=False) == "127.0.0.1"
    assert listen_on("10.1.2.3", auth=False) == "10.1.2.3"
    assert listen_on("0.0.0.0", auth=True) == "0.0.0.0"
    for open_to_all in ("0.0.0.0", "::", "8.8.8.8"):
        with pytest.raises(UsageError, match="--auth"):
            listen_on(open_to_all, auth=False)


def test_accounts_are_for_their_owner_alone(tmp_path: Path) -> None:
    backend = f"sqlite:///{tmp_path}/mlflow.db"
    with accounts(backend, SECRET) as environment:
        config = Path(environment["MLFLOW_AUTH_CONFIG_PATH"])
        assert SECRET not in config.read_text()
        assert stat.S_IMODE(config.parent.stat().st_mode) == 0o700
        assert len(environment["MLFLOW_FLASK_SERVER_SECRET_KEY"]) == 64
    assert not config.exists()
    assert stat.S_IMODE((tmp_path / "accounts.db").stat().st_mode) == 0o600


def test_a_password_is_not_shown() -> None:
    assert shown("postgresql+psycopg2://me:a@b/c:d@db:5432/runs") == "postgresql://me:***@db:5432/runs"
    assert shown("http://tracking.example:5000") == "http://tracking.example:5000"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
