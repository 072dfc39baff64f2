"""Configuration files: what is accepted, and how mistakes are told."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, field_validator

from clusterd.daemon.config_file import ConfigError, Strict, load, read_secret, validate


class Http(Strict):
    port: int = Field(default=8080, ge=1, le=65535)
    listen: str = "127.0.0.1"
    admin_token: str = "unset"


class Relay(Strict):
    cidr: str
    via: str | None = None

    @field_validator("cidr")
    @classmethod
    def has_a_length(cls, value: str) -> str:
        if "/" not in value:
            raise ValueError(f"not a network: {value!r}")
        return value


class FileBackend(Strict):
    kind: Literal["file"]
    path: str


class DnsmasqBackend(Strict):
    kind: Literal["dnsmasq"]
    hostsfile: str


class Settings(Strict):
    name: str
    http: Http = Http()
    relay: tuple[Relay, ...] = ()
    limit: int | bool = 5
    dsn: int | None = None
    state: Path = Path("/")
    backend: Annotated[FileBackend | DnsmasqBackend, Field(discriminator="kind")] | None = None
    nics: dict[str, Http] = Field(default_factory=dict)


def mistakes(tmp_path: Path, content: str) -> list[str]:
    """The mistakes found in a file with this content, without the file's name."""
    path = tmp_path / "region.toml"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load(path, Settings)
    prefix = f"{path}: "
    assert str(caught.value).splitlines() == list(caught.value.mistakes)
    assert all(mistake.startswith(prefix) for mistake in caught.value.mistakes)
    return [mistake.removeprefix(prefix) for mistake in caught.value.mistakes]


def test_a_good_file_gives_frozen_settings(tmp_path: Path) -> None:
    path = tmp_path / "region.toml"
    path.write_text('name = "north"\n[http]\nport = 80\n[[relay]]\ncidr = "192.0.2.0/24"\n')
    settings = load(path, Settings)
    assert settings == Settings(name="north", http=Http(port=80), relay=(Relay(cidr="192.0.2.0/24"),))
    with pytest.raises(ValidationError, match="frozen"):
        settings.name = "south"


def test_every_mistake_is_told_in_one_go(tmp_path: Path) -> None:
    assert mistakes(
        tmp_path,
        """
        nmae = "x"
        [http]
        port = 70000
        prot = 1
        [[relay]]
        cidr = "192.0.2.0/24"
        [[relay]]
        cidr = "nonsense"
        vai = "x"
        """,
    ) == [
        "name: is missing and has no default",
        "[http] port: input should be less than or equal to 65535 (70000)",
        '[http] prot: unknown key — did you mean "port"?',
        "[[relay]] #2 cidr: not a network: 'nonsense' ('nonsense')",
        '[[relay]] #2 vai: unknown key — did you mean "via"?',
        'nmae: unknown key — did you mean "name"?',
    ]


def test_mistakes_are_told_in_the_words_of_the_file(tmp_path: Path) -> None:
    assert mistakes(tmp_path, 'name = "a"\nrelay = "b"\nstate = 5\n') == [
        "relay: input should be a list ('b')",
        "state: input should be a path, as text (5)",
    ]


def test_an_unknown_key_without_a_near_one_lists_the_known_ones(tmp_path: Path) -> None:
    assert mistakes(tmp_path, 'name = "x"\n[http]\nzzz = 1\n') == [
        "[http] zzz: unknown key — known here: admin_token, listen, port"
    ]


def test_an_unknown_table_and_a_table_where_a_value_belongs(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "name = {x = 1}\n[htp]\nport = 1\n") == [
        "name: input should be a valid string (a table was given)",
        'htp: unknown key — did you mean "http"?',
    ]


def test_members_of_a_union_are_one_mistake_with_the_name_that_the_file_has(tmp_path: Path) -> None:
    (limit,) = mistakes(tmp_path, 'name = "x"\nlimit = "many"\n')
    assert limit.startswith("limit: ") and " or " in limit and limit.count("('many')") == 2
    assert mistakes(tmp_path, 'name = "x"\n[backend]\nkind = "dnsmasq"\nhostfile = "a"\n') == [
        "[backend] hostsfile: is missing and has no default",
        '[backend] hostfile: unknown key — did you mean "hostsfile"?',
    ]


def test_tables_under_free_names(tmp_path: Path) -> None:
    assert mistakes(tmp_path, 'name = "x"\n[nics.eth0]\nport = "a"\nlisen = ""\n') == [
        "[nics.eth0] port: input should be a valid integer, unable to parse string as an integer ('a')",
        '[nics.eth0] lisen: unknown key — did you mean "listen"?',
    ]


def test_secrets_are_not_repeated(tmp_path: Path) -> None:
    content = """
    name = 5
    dsn = "postgresql://ops:hunter2@db/region"
    [http]
    admin_token = 123456789
    admin_tokn = "hunter2"
    """
    told = mistakes(tmp_path, content)
    assert len(told) == 4
    assert not any("hunter2" in line or "123456789" in line for line in told)
    assert "[http] admin_token: input should be a valid string (value not shown)" in told


def test_a_validator_that_quotes_a_secret_is_cut() -> None:
    class Link(Strict):
        token: str

        @field_validator("token")
        @classmethod
        def long_enough(cls, value: str) -> str:
            raise ValueError(f"too short: {value!r}")

    with pytest.raises(ConfigError) as caught:
        validate({"token": "hunter2"}, Link, "here")
    assert str(caught.value) == "here: token: too short: … (value not shown)"


def test_long_values_are_cut(tmp_path: Path) -> None:
    (told,) = mistakes(tmp_path, f'name = "x"\n[http]\nport = "{"a" * 500}"\n')
    assert len(told) < 200


def test_syntax_errors_have_a_line_and_a_column(tmp_path: Path) -> None:
    (told,) = mistakes(tmp_path, 'name = "x"\nport 8080\n')
    assert told.startswith("line 2, column 6: ")
    assert mistakes(tmp_path, "a = 1\na = 2\n")[0].startswith("line 2, column 6: ")
    assert len(mistakes(tmp_path, 'a = "')) == 1
    assert len(mistakes(tmp_path, "a = " + "[" * 100_000)) == 1


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, said in (
        (tmp_path / "absent.toml", "there is no such file"),
        (tmp_path, "cannot be read: Is a directory"),
    ):
        with pytest.raises(ConfigError) as caught:
            load(path, Settings)
        assert str(caught.value) == f"{path}: {said}"
    (tmp_path / "binary.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(ConfigError, match=r"is not UTF-8 text \(byte 8\)"):
        load(tmp_path / "binary.toml", Settings)


toml_values = st.recursive(
    st.integers() | st.text() | st.booleans() | st.floats(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
toml_keys = st.sampled_from(["name", "http", "relay", "limit", "backend", "nics", "dsn"]) | st.text()


@given(st.dictionaries(toml_keys, toml_values | st.just([{"cidr": 1}]) | st.just({"kind": "file", "pth": 2})))
def test_any_content_gives_settings_or_mistakes(content: dict[str, object]) -> None:
    mistakes = mistakes_in(content)
    assert all(mistake.startswith("here: ") for mistake in mistakes)
    assert not any(character in mistake for mistake in mistakes for character in "\n\r\x1b")
    if not mistakes:
        assert validate(content, Settings, "here").name == content["name"]


def mistakes_in(content: dict[str, object]) -> tuple[str, ...]:
    try:
        validate(content, Settings, "here")
    except ConfigError as error:
        return error.mistakes
    return ()


def test_a_secret_is_the_one_line_of_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("  hunter2\n")
    path.chmod(0o600)
    assert read_secret(path) == "hunter2"
    path.chmod(0o640)
    assert read_secret(path) == "hunter2"


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o601])
def test_a_secret_that_every_user_can_open_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    path.write_text("hunter2")
    path.chmod(mode)
    with pytest.raises(ConfigError, match="every user can open it") as caught:
        read_secret(path)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "one line"), (b"a\nb", "one line"), (b"\xff", "UTF-8"), (b"x" * 5000, "4096")],
)
def test_secret_files_with_something_else_in_them(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=said):
        read_secret(path)


def test_a_missing_secret_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        read_secret(tmp_path / "absent")
