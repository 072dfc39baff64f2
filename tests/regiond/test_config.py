"""regiond's settings: an empty file works, and every mistake is told in one go."""

from pathlib import Path

import pytest

from clusterd.daemon.config_file import ConfigError, load, validate
from clusterd.daemon.endpoints import LoopbackAddress, TlsAddress, UnixAddress
from regiond.config import RegionSettings


def settings_from(tmp_path: Path, text: str) -> RegionSettings:
    file = tmp_path / "regiond.toml"
    file.write_text(text)
    return load(file, RegionSettings)


def mistakes_of(tmp_path: Path, text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        settings_from(tmp_path, text)
    return caught.value.mistakes


def test_an_empty_file_works() -> None:
    settings = validate({}, RegionSettings, "test")
    assert settings.http.listen == (LoopbackAddress("127.0.0.1", 5240),)
    assert settings.api_socket == UnixAddress("/var/lib/hostmap/region/api.sock")
    assert settings.cluster_listen == (UnixAddress("/var/lib/hostmap/region/clusters.sock"),)
    assert settings.database.complete_dsn() is None


def test_everything_can_be_said(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.touch(mode=0o600)
    secret.write_text("s3cret\n")
    settings = settings_from(
        tmp_path,
        f"""
        state_directory = "/srv/region"
        [http]
        listen = ["tcp:[::1]:80", "unix:/run/region.sock"]
        socket = "/run/api.sock"
        [clusters]
        listen = ["tcp:127.0.0.1:5250"]
        endpoints = ["tcp:region.example:5250"]
        [database]
        dsn = "host=db1,db2 dbname=hostmap target_session_attrs=read-write"
        password_file = "{secret}"
        """,
    )
    assert settings.http.listen == (LoopbackAddress("::1", 80), UnixAddress("/run/region.sock"))
    assert settings.api_socket == UnixAddress("/run/api.sock")
    assert settings.cluster_listen == (TlsAddress("127.0.0.1", 5250),)
    assert settings.clusters.endpoints == (TlsAddress("region.example", 5250),)
    assert settings.enrolment_listen == TlsAddress("127.0.0.1", 5251)
    dsn = settings.database.complete_dsn()
    assert dsn is not None
    assert "password=s3cret" in dsn


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    told = mistakes_of(
        tmp_path,
        """
        state_directory = "here"
        colour = "red"
        [http]
        listen = ["tcp:192.0.2.1:80"]
        [clusters]
        listn = []
        endpoints = ["tcp:[::]:5250"]
        enrolment = "unix:/enrol"
        [database]
        dsn = "nonsense"
        """,
    )
    assert len(told) == 7
    for key in ("state_directory", "colour", "listen", "endpoints", "enrolment", 'did you mean "listen"', "dsn"):
        assert any(key in mistake for mistake in told), (key, told)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[database]\ndsn = "dbname=hostmap"\nrun_as = "postgres"', "run_as"),
        ('[database]\npassword_file = "/etc/secret"', "password_file"),
        ('[database]\ndsn = "dbname=hostmap password=s3cret"', "password_file"),
    ],
)
def test_what_does_not_fit_together_is_told_and_no_password_repeated(tmp_path: Path, text: str, said: str) -> None:
    (mistake,) = mistakes_of(tmp_path, text)
    assert said in mistake
    assert "s3cret" not in mistake


def test_keys_of_a_table_that_do_not_go_together_are_one_sentence(tmp_path: Path) -> None:
    assert [
        said.rpartition(": http: ")[2] for said in mistakes_of(tmp_path, '[http]\nlisten = ["tls:[::]:5243"]\n')
    ] == ["tls: needs both certificate and private_key"]


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:s3cret%zt@db/hostmap",
        "postgresql://u:s3cret@[db/hostmap",
        "postgresql://u:/s3cret%zt@db/hostmap",
        "host=db password=my s3cret",
        "host=db password = my s3cret",
    ],
)
def test_a_dsn_that_cannot_be_read_is_not_repeated_where_it_may_hold_a_password(tmp_path: Path, dsn: str) -> None:
    (mistake,) = mistakes_of(tmp_path, f'[database]\ndsn = "{dsn}"')
    assert "not a PostgreSQL connection string" in mistake
    assert "s3cret" not in mistake


def test_what_is_wrong_with_another_dsn_is_told(tmp_path: Path) -> None:
    (mistake,) = mistakes_of(tmp_path, '[database]\ndsn = "dbname=hostmap hst=db"')
    assert 'invalid connection option "hst"' in mistake


def test_a_password_that_others_can_read_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("s3cret")
    secret.chmod(0o644)
    settings = settings_from(tmp_path, f'[database]\ndsn = "dbname=hostmap"\npassword_file = "{secret}"')
    with pytest.raises(ConfigError, match="chmod 600"):
        settings.database.complete_dsn()
