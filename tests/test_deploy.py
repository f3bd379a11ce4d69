"""deploy/: what can be run here is run; the rest is linted, and held against the program that it starts."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from redis_servers import RedisServer, binaries, serving
from typer.testing import CliRunner

import banditroute
from banditroute.cli import app
from banditroute.cli.options import ROUTER_ADDRESS
from banditroute.config import load
from banditroute.config_local import ServerConfig
from banditroute.core.errors import ConfigError
from banditroute.server.health import PROCESS, ROUTER_SERVICE, SERVICES
from banditroute.wiring import read_keys

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
CONFIG = KUBERNETES / "banditroute.yaml"
SERVERS = binaries()
IMAGE = f"banditroute:{banditroute.__version__}"


def manifests(*names: str) -> dict[str, Any]:
    """All that kustomization.yaml lists (or the files named), by kind and name."""
    found = {}
    for name in names or yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]:
        for each in yaml.safe_load_all((KUBERNETES / name).read_text()):
            found[f"{each['kind']}/{each['metadata']['name']}"] = each
    return found


def compose() -> Any:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def routers() -> list[Any]:
    """Compose's replicas."""
    return [each for name, each in compose()["services"].items() if name.startswith("router-")]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", (DEPLOY / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in (line.strip() for line in lines)]


@pytest.fixture
def pod() -> Any:
    return manifests()["Deployment/banditroute"]["spec"]["template"]["spec"]


@pytest.fixture
def container(pod: Any) -> Any:
    (found,) = pod["containers"]
    return found


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANDITROUTE_STORE", "redis://banditroute:secret@redis:6379/0")


# --- linters ---


def linter(name: str) -> str:
    """Where it is; skips the test where it is not installed."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    return found or pytest.skip(f"{name} is not installed here: it is of the extra `dev`")


def passes(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_hadolint() -> None:
    assert passes(linter("hadolint"), DEPLOY / "Dockerfile") == ""


def test_yamllint() -> None:
    assert passes(linter("yamllint"), "--strict", "-c", ROOT / ".yamllint.yaml", DEPLOY) == ""


def test_the_compose_specification() -> None:
    passes(linter("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")


@pytest.mark.parametrize("version", ["1.31", "1.34"])
def test_the_schemas_of_kubernetes(version: str) -> None:
    files = [path for path in sorted(KUBERNETES.glob("*.yaml")) if path.name not in ("kustomization.yaml", CONFIG.name)]
    passes(linter("kubernetes-validate"), "--strict", "--kubernetes-version", version, *files)


def test_kustomize_renders_it() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed here")
    made = list(yaml.safe_load_all(passes("kubectl", "kustomize", KUBERNETES)))
    (config,) = [each for each in made if each["kind"] == "ConfigMap"]
    assert config["data"]["banditroute.yaml"] == CONFIG.read_text()
    (deployment,) = [each for each in made if each["kind"] == "Deployment"]
    volumes = {each["name"]: each for each in deployment["spec"]["template"]["spec"]["volumes"]}
    assert volumes["config"]["configMap"]["name"] == config["metadata"]["name"]


# --- the image ---


def test_the_image_runs_as_nobody_in_particular_and_holds_no_secret() -> None:
    found = instructions()
    names = [name for name, _ in found]
    values = dict(found)  # of each, the last
    user, group = values["USER"].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert json.loads(values["ENTRYPOINT"]) == ["banditroute"]
    assert names.count("FROM") == 2
    assert [value for name, value in found if name == "ARG"] == ["PYTHON=3.13-slim"]
    assert not re.search(r"(?i)password|secret=|redis://", " ".join(value for _, value in found))
    installs = [line for name, value in found if name == "RUN" for line in value.split("&&") if " install " in line]
    assert [line for line in installs if "pip" in line and "-c constraints.txt" not in line] == []
    assert {value.split()[0] for name, value in found if name == "FROM"} == {"python:${PYTHON}"}


def test_only_what_the_wheel_is_built_from_is_sent_to_the_builder() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    project = (ROOT / "pyproject.toml").read_text()
    forced = set(re.findall(r'^"(simulations/\w+)" = ', project, flags=re.MULTILINE))
    assert sent == forced | {"src", "pyproject.toml", "README.md", "LICENSE", "constraints.txt"}
    assert all((ROOT / each).exists() for each in sent)


def test_the_images_commands_exist() -> None:
    values = dict(instructions())
    (serve, probe) = (json.loads(value[value.index("[") :]) for value in (values["CMD"], values["HEALTHCHECK"]))
    ports = [option(serve, name).rpartition(":")[2] for name in ("--listen", "--admin-listen")]
    assert ports == values["EXPOSE"].split()
    assert option(serve, "--admin-listen").startswith("127.0.0.1:")
    assert f"127.0.0.1:{ports[0]}" == ROUTER_ADDRESS  # where `banditroute health` asks
    assert probe == ["banditroute", "health"]
    assert [each["command"] for each in routers()] == [serve, serve]
    for arguments in (serve, probe[1:]):
        commands: Any = typer.main.get_command(app)
        known = {option for each in commands.get_command(None, arguments[0]).params for option in each.opts}
        assert {each for each in arguments if each.startswith("--")} <= known


def option(arguments: Sequence[str], name: str) -> str:
    """Its value, written as `--name VALUE` or `--name=VALUE`."""
    for i, each in enumerate(arguments):
        if each == name:
            return arguments[i + 1]
        if each.startswith(f"{name}="):
            return each.partition("=")[2]
    raise AssertionError(f"no {name}")


# --- one against the other ---


def test_ports_are_those_that_are_listened_on(container: Any) -> None:
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    for name, listening in (("grpc", "--listen"), ("grpc-admin", "--admin-listen")):
        assert option(container["args"], listening) == f"0.0.0.0:{ports[name]}"
    found = manifests()
    services = [found["Service/banditroute"], found["Service/banditroute-admin"]]
    assert [(s["spec"]["ports"][0]["targetPort"], s["spec"]["ports"][0]["port"]) for s in services] == list(ports.items())
    assert services[0]["spec"]["clusterIP"] == "None"
    policy = found["NetworkPolicy/banditroute"]["spec"]
    assert [rule["ports"][0]["port"] for rule in policy["ingress"]] == list(ports.values())
    assert [rule["from"][0]["podSelector"]["matchLabels"] for rule in policy["ingress"]] == [
        {"banditroute-client": "true"},
        {"banditroute-operator": "true"},
    ]
    assert sorted({port["port"] for rule in policy["egress"] for port in rule["ports"]}) == [53, 6379]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    published = [port for each in routers() for port in each["ports"]]
    assert len(set(published)) == len(published)
    assert all(port.startswith("127.0.0.1:") and port.endswith(f":{ports['grpc']}") for port in published)


def test_probes_ask_for_what_the_server_tells(container: Any) -> None:
    probes = {name: container[f"{name}Probe"]["grpc"] for name in ("startup", "liveness", "readiness")}
    assert {name: probe["service"] for name, probe in probes.items()} == {
        "startup": PROCESS,
        "liveness": PROCESS,
        "readiness": ROUTER_SERVICE,
    }
    assert {probe["service"] for probe in probes.values()} <= set(SERVICES)
    assert {probe["port"] for probe in probes.values()} == {container["ports"][0]["containerPort"]}


def test_everything_selects_the_same_pods() -> None:
    found = manifests()
    spec = found["Deployment/banditroute"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    pod = spec["template"]["spec"]
    affinity = pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    selectors = [
        spec["selector"]["matchLabels"],
        found["PodDisruptionBudget/banditroute"]["spec"]["selector"]["matchLabels"],
        found["NetworkPolicy/banditroute"]["spec"]["podSelector"]["matchLabels"],
        found["Service/banditroute"]["spec"]["selector"],
        found["Service/banditroute-admin"]["spec"]["selector"],
        *[each["labelSelector"]["matchLabels"] for each in pod["topologySpreadConstraints"]],
        *[each["podAffinityTerm"]["labelSelector"]["matchLabels"] for each in affinity],
    ]
    assert selectors == [labels] * len(selectors)
    assert spec["replicas"] > found["PodDisruptionBudget/banditroute"]["spec"]["maxUnavailable"]


def test_pods_have_no_more_rights_than_they_need(pod: Any, container: Any) -> None:
    user, group = map(int, dict(instructions())["USER"].split(":"))
    rights = pod["securityContext"]
    assert rights["runAsNonRoot"] is True
    assert (rights["runAsUser"], rights["runAsGroup"]) == (user, group)
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert {"requests", "limits"} <= container["resources"].keys()
    mounted = {each["name"] for each in container["volumeMounts"]}
    assert mounted == {each["name"] for each in pod["volumes"]}


def test_images_are_of_this_version(container: Any) -> None:
    services = compose()["services"]
    assert {container["image"], *[each["image"] for each in routers()]} == {IMAGE}
    (image,) = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["images"]
    assert f"{image['name']}:{image['newTag']}" == IMAGE
    for service in services.values():
        assert not service["image"].endswith(":latest")
        assert ":" in service["image"]


@pytest.mark.usefixtures("store")
def test_the_configuration_is_valid_and_its_paths_are_mounted(pod: Any, container: Any) -> None:
    local = load(CONFIG).local
    mounts = [Path(each["mountPath"]) for each in container["volumeMounts"]]
    assert local.signing_keys_file is not None
    places = [option(container["args"], "--config"), local.signing_keys_file]
    volumes = []
    for each in routers():
        assert [each["configs"][0]["target"], each["secrets"][0]["target"]] == places
        volume, _, folder = each["volumes"][0].partition(":")
        volumes.append(volume)
        assert folder == local.redis.checkpoint_folder
    assert len(set(volumes)) == len(volumes)  # each replica's own
    for path in (*places, local.redis.checkpoint_folder):
        assert any(Path(path).is_relative_to(mount) for mount in mounts), path
    (items,) = [each["secret"]["items"] for each in pod["volumes"] if "secret" in each]
    assert items[0]["path"] == Path(local.signing_keys_file).name
    assert compose()["configs"]["banditroute"]["file"] == "./kubernetes/banditroute.yaml"
    graces = [int(each["stop_grace_period"].removesuffix("s")) for each in routers()]
    for grace in (pod["terminationGracePeriodSeconds"], *graces):
        assert grace >= local.server.drain_s + local.server.grace_s + 10.0
    period = container["readinessProbe"]["periodSeconds"]
    assert local.server.drain_s >= period or local.server.drain_s >= ServerConfig().drain_s


def test_the_example_of_a_secret_is_refused(tmp_path: Path, container: Any) -> None:
    """Nobody is to sign with what is published here."""
    secret = manifests("secret.example.yaml")["Secret/banditroute"]
    assert {each["valueFrom"]["secretKeyRef"]["key"] for each in container["env"]} | {"keys.json"} == set(secret["stringData"])
    (tmp_path / "keys.json").write_text(secret["stringData"]["keys.json"])
    with pytest.raises(ConfigError):
        read_keys(tmp_path / "keys.json")


# --- run ---


def until(held: Callable[[], bool]) -> None:
    """Waits for what another process does; fails after a minute."""
    end = time.monotonic() + 60.0
    while not held():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """What secrets.sh makes, and that it makes it once."""
    for name in ("secrets.sh", "redis.acl"):
        shutil.copy(DEPLOY / name, tmp_path)
    passes("sh", tmp_path / "secrets.sh")
    assert subprocess.run(["sh", tmp_path / "secrets.sh"], capture_output=True, check=False).returncode == 1
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert len(read_keys(tmp_path / "secrets" / "keys.json")) == 1
    assert len((tmp_path / "secrets" / "operator_password").read_text().strip()) == 64
    return tmp_path


@pytest.fixture
def server(secrets: Path, tmp_path: Path) -> Iterator[RedisServer]:
    """A server as compose.yaml starts it."""
    if "redis-8" not in SERVERS:
        pytest.skip("no redis-8 server is installed here")
    name, *options = compose()["services"]["redis"]["command"]
    assert name == "redis-server"
    options[options.index("/run/secrets/users.acl")] = str(secrets / "secrets" / "users.acl")
    with serving(SERVERS["redis-8"], tmp_path / "redis", *options) as server:
        yield server


def test_the_pods_command_serves_from_composes_redis(server: RedisServer, secrets: Path, container: Any, tmp_path: Path) -> None:
    """With the address and the user that secrets.sh made; only paths and ports are other ones."""
    written = (secrets / ".env").read_text().strip().partition("=")[2].replace("@redis:6379", f"@127.0.0.1:{server.port}")
    document = yaml.safe_load(CONFIG.read_text())
    document["signing_keys_file"] = str(secrets / "secrets" / "keys.json")
    document["redis"]["checkpoint_folder"] = str(tmp_path / "state")
    document["server"]["drain_s"] = 0
    path = tmp_path / "banditroute.yaml"
    path.write_text(yaml.safe_dump(document))
    arguments = [re.sub(r"=/etc/.*", f"={path}", re.sub(r"=0\.0\.0\.0:\d+", "=127.0.0.1:0", each)) for each in container["args"]]
    environment = {**os.environ, "BANDITROUTE_STORE": written}

    def asked(*more: str) -> Any:
        return CliRunner().invoke(app, list(more), env={"BANDITROUTE_STORE": written})

    command = [sys.executable, "-m", "banditroute", *arguments]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            ready = re.match(r"serving router=(\S+) admin=(\S+)", process.stdout.readline())
            assert ready
            router, admin = ready.groups()
            probed = [container[f"{probe}Probe"]["grpc"]["service"] for probe in ("startup", "liveness", "readiness")]
            until(lambda: [asked("health", "--address", router, "--service", each).exit_code for each in probed] == [0, 0, 0])
            decision = json.loads(asked("route", "summarise", "--server", router, "--json").stdout)
            told = asked("feedback", decision["decision_id"], "--server", router, "--eval-score", "0.8", "--json")
            assert json.loads(told.stdout)["disposition"] == "APPLIED"
            changed = ("set", "summarise", "--cost-weight", "0.5", "--reason", "test", "--server", admin)
            assert asked(*changed).exit_code == 0
            assert json.loads(asked("apply", str(path), "--yes", "--json").stdout)["position"] is None
            server.kill()
            assert asked("route", "summarise", "--server", router).exit_code == 0
            assert [asked("health", "--address", router, "--service", each).exit_code for each in probed] == [0, 0, 0]
            told_log = ("health", "--address", router, "--service", "log")
            until(lambda: asked(*told_log).exit_code == 1)
            server.start()
            until(lambda: asked(*told_log).exit_code == 0)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
    assert (tmp_path / "state" / "banditroute.checkpoint").exists()
