"""Several nodes: the first tells each step, the others take part in it, all of them end, and nobody else is let in."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sefe_plugin.hosts.llamafactory import nodes
from sefe_plugin.hosts.llamafactory.node_link import ForeignError, Secret, _Lines, join, welcome
from sefe_plugin.hosts.llamafactory.nodes import Step, environment_errors, follow, lead, steps_of_recipe
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.recipe.load import Recipe
from sefe_plugin.recipe.tasks import Task
from sefe_plugin.run.job import TaskFailedError


SECRET = "0123456789abcdef"

#: A node as a process of its own; in place of a training, its part of a step writes the step's folder into a file.
NODE = """
import sys
from pathlib import Path
from sefe_plugin.hosts.llamafactory import nodes
from tests_recipe import recipe

nodes.step_command = lambda file: [sys.executable, "-c", f"open('seen', 'a').write('{file.parent.name} ')"]
"""
LEAD = """
with nodes.lead(recipe) as announce:
    for step, file in nodes.steps_of_recipe(recipe).items():
        if step.step == "train":
            file.parent.mkdir(parents=True)
            file.touch()
            announce("train", file.absolute())
    if "fail" in sys.argv:
        raise SystemExit(3)
"""
FOLLOW = "nodes.follow(recipe)"
RECIPE = """
from pathlib import Path
from sefe_plugin.recipe.load import Recipe
from sefe_plugin.recipe.tasks import Task

tasks = tuple(Task(name, name, name, "short_answer", {}) for name in ("one", "two"))
keys = {"cl_method": "lora", "carry": "stack", "model_name_or_path": "base"}
recipe = Recipe("recipe.yaml", keys, tasks, Path("run"), None)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1] - 1


def variables(rank: int, port: int) -> dict[str, str]:
    return {"NNODES": "2", "NODE_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


@pytest.fixture
def start(tmp_path):
    port = free_port()
    (tmp_path / "tests_recipe.py").write_text(RECIPE)
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])

    def start(code: str, rank: int, *arguments: str, **more: str) -> subprocess.Popen:
        environment = os.environ | variables(rank, port) | {"PYTHONPATH": paths} | more
        return subprocess.Popen(
            [sys.executable, "-c", NODE + code, *arguments], cwd=tmp_path, env=environment, stderr=subprocess.PIPE
        )

    return start


@pytest.mark.parametrize("failing", [False, True])
def test_other_nodes_take_part_in_every_step_in_order_and_end_with_the_first(start, tmp_path, failing):
    follower = start(FOLLOW, 1)  # a node may be there before the first one
    time.sleep(1)
    leader = start(LEAD, 0, *["fail"] * failing)
    assert leader.wait(120) == (3 if failing else 0), leader.stderr.read()
    assert follower.wait(60) == 0, follower.stderr.read()
    assert (tmp_path / "seen").read_text() == "1_one 2_two "
    assert not (tmp_path / "run" / ".nodes.secret").exists()


@pytest.fixture
def recipe(tmp_path, monkeypatch) -> Recipe:
    """The recipe of two tasks, seen from another node, with a secret from the environment."""
    for name, value in variables(1, free_port()).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SEFE_SECRET", SECRET)
    tasks = tuple(Task(name, name, name, "short_answer", {}) for name in ("one", "two"))
    keys = {"cl_method": "lora", "carry": "stack", "model_name_or_path": "base"}
    recipe = Recipe("recipe.yaml", keys, tasks, tmp_path / "run", None)
    for file in steps_of_recipe(recipe).values():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return recipe


def test_the_scoring_of_the_base_is_a_step_of_all_nodes(recipe):
    assert not any(step.task < 0 for step in steps_of_recipe(recipe))
    scored = replace(recipe, arguments={**recipe.arguments, "score_unseen": True})
    first, file = next(iter(steps_of_recipe(scored).items()))
    assert first == Step("score", -1)
    assert file == recipe.output_dir / "0_base" / "score.yaml"
    assert nodes._known_step({"step": "score", "task": -1, "phase": ""}, steps_of_recipe(scored)) == first
    with pytest.raises(ForeignError):
        nodes._known_step({"step": "score", "task": -1, "phase": ""}, steps_of_recipe(recipe))


@pytest.fixture
def ran(monkeypatch) -> list[list[str]]:
    """What this node has run."""
    commands = []
    monkeypatch.setattr(nodes.subprocess, "run", lambda command, check: commands.append(command))
    return commands


def as_first_node(talk) -> threading.Thread:
    """Listen as the first node and give the connection to `talk`."""
    server = socket.create_server((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]) + 1))

    def serve():
        with server, contextlib.suppress(OSError):
            connection, _ = server.accept()
            talk(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


def messages_of_the_run(recipe: Recipe, *messages):
    """A first node with the secret, which sends what it likes."""

    def talk(connection):
        link, _ = welcome(connection, Secret(SECRET), nodes._digest(recipe), range(1, 2))
        for message in messages:
            link.send(message)
        link.wait_for_close(5)
        link.close()

    return as_first_node(talk)


def test_a_step_is_this_nodes_own_command(recipe, ran):
    end = {"step": "end"}
    messages_of_the_run(recipe, Step("train", 1)._asdict(), Step("score", 0)._asdict(), end)
    follow(recipe)
    folder = recipe.output_dir
    files = [folder / "2_two" / "task.yaml", folder / "1_one" / "score.yaml"]
    assert ran == [[sys.executable, "-P", "-m", "llamafactory.cli", "train", str(file)] for file in files]


@pytest.mark.parametrize(
    "message",
    [
        {"step": "merge", "task": 0, "phase": ""},
        {"step": "train", "task": 2, "phase": ""},
        {"step": "train", "task": -1, "phase": ""},
        {"step": "train", "task": True, "phase": ""},
        {"step": "train", "task": "0", "phase": ""},
        {"step": "train", "task": 0, "phase": "../../other"},
        {"step": "train", "task": 0},
        {"step": ["rm", "-r", "."], "task": 0, "phase": ""},
        {"step": "train", "task": 0, "phase": "", "command": ["touch", "x"]},
        ["touch", "x"],
        "touch x",
        None,
    ],
)
def test_nothing_but_steps_of_the_recipe_is_run_even_for_those_with_the_secret(recipe, ran, message):
    messages_of_the_run(recipe, message)
    with pytest.raises(TaskFailedError, match=r"is no step of this recipe\. Nothing was run"):
        follow(recipe)
    assert ran == []


def foreign_words(connection):
    lines = _Lines(connection)
    (other,) = lines.receive("random")
    lines.send({"random": "f", "sign": Secret("another secret!!").sign("first", other, "f")})
    lines.send({"body": json.dumps(Step("train", 0)._asdict()), "sign": ""})
    lines.wait_for_close(5)


def list_of_commands(connection):
    connection.sendall(json.dumps(["touch", "x"]).encode() + b"\n")


def deep_json(connection):
    connection.sendall(b"[" * 4000 + b"\n")


def endless_line(connection):
    connection.sendall(b"x" * 100_000)


@pytest.mark.parametrize("talk", [foreign_words, list_of_commands, deep_json, endless_line])
def test_a_first_node_without_the_secret_is_not_believed(recipe, ran, monkeypatch, talk):
    monkeypatch.setattr(nodes, "_JOIN_TIME", 0.3)
    as_first_node(talk)
    with pytest.raises(TaskFailedError, match="The first node could not be joined"):
        follow(recipe)
    assert ran == []


@pytest.mark.parametrize("change", ["again", "body", "count"])
def test_a_message_that_was_sent_before_or_changed_is_refused(recipe, ran, change):
    def talk(connection):
        link, _ = welcome(connection, Secret(SECRET), nodes._digest(recipe), range(1, 2))
        sent = []
        link._lines.send, send = sent.append, link._lines.send
        link.send(Step("train", 0)._asdict())
        (first,) = sent
        send(first)
        if change == "body":
            first = first | {"body": first["body"].replace("0", "1")}
        if change == "count":
            link._count += 1
            link.send(Step("train", 1)._asdict())
            first = sent[-1]
        send(first)
        link.wait_for_close(5)

    as_first_node(talk)
    with pytest.raises(TaskFailedError, match="has not the signature of the run, or was sent before"):
        follow(recipe)
    assert len(ran) == 1  # the first message was right


def connect() -> socket.socket:
    return socket.create_connection((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]) + 1))


def test_nodes_without_the_secret_are_turned_away_and_the_right_one_is_served(recipe, capfd, monkeypatch):
    monkeypatch.setenv("NODE_RANK", "0")
    monkeypatch.setattr(nodes, "_LEAVE_TIME", 1.0)
    file = steps_of_recipe(recipe)[Step("train", 0)]
    with lead(recipe) as announce:
        silent = connect()  # a connection that says nothing keeps nobody waiting
        wrong = Secret("another secret!!")
        with pytest.raises(ForeignError):
            join(connect(), wrong, nodes._digest(recipe), 1)
        for line in (b"[]\n", b"\xff\n", b'{"random": 1}\n', b'{"random": "\\ud800"}\n{"rank": "1", "recipe": "", '):
            with connect() as connection:
                connection.sendall(line)
        with connect() as connection:
            lines = _Lines(connection)
            lines.send({"random": "o"})
            first, _ = lines.receive("random", "sign")
            digest = nodes._digest(recipe)
            lines.send({"rank": "1", "recipe": digest, "sign": wrong.sign("other", "o", first, "1", digest)})
            assert connection.recv(1) == b""
        with pytest.raises(OSError, match="closed"):  # the first node itself is no other node
            join(connect(), Secret(SECRET), nodes._digest(recipe), 0)
        link = join(connect(), Secret(SECRET), nodes._digest(recipe), 1)
        announce("train", file)
        assert link.receive() == {"step": "train", "task": 0, "phase": ""}
        link.close()
        silent.close()
    said = capfd.readouterr().err
    assert "Refused a connection from 127.0.0.1: it has not the secret of this run." in said
    assert "it does not speak as a node of a run does." in said
    assert "NODE_RANK=0 is not that of another node." in said


def test_the_first_node_listens_at_its_own_address_alone(recipe, monkeypatch):
    monkeypatch.setattr(nodes, "_LEAVE_TIME", 0.0)
    with lead(recipe):
        for address, open_there in (("127.0.0.1", True), ("127.0.0.2", False)):
            with socket.socket() as probe:
                port = int(os.environ["MASTER_PORT"]) + 1
                assert (probe.connect_ex((address, port)) == 0) == open_there
    monkeypatch.setenv("MASTER_ADDR", "192.0.2.1")  # an address that no machine has
    with pytest.raises(RecipeError, match=r"cannot listen at 192.0.2.1.*Set MASTER_ADDR"), lead(recipe):
        pass


def test_a_node_with_another_recipe_is_told(recipe, ran):
    def talk(connection):
        with pytest.raises(ForeignError, match="NODE_RANK=1 was started with another recipe"):
            welcome(connection, Secret(SECRET), "another recipe", range(1, 2))

    as_first_node(talk)
    with pytest.raises(RecipeError, match="must be equal on all nodes"):
        follow(recipe)
    assert ran == []


def test_a_lost_first_node_ends_the_others(recipe, ran):
    as_first_node(
        lambda connection: welcome(connection, Secret(SECRET), nodes._digest(recipe), range(1, 2))[0].close()
    )
    with pytest.raises(TaskFailedError, match="The first node is gone"):
        follow(recipe)


def test_nodes_that_do_not_come_end_the_first(recipe, monkeypatch):
    monkeypatch.setattr(nodes, "_JOIN_TIME", 0.2)
    monkeypatch.setattr(nodes, "_LEAVE_TIME", 0.0)
    with (
        pytest.raises(TaskFailedError, match="Only 0 of 1 other nodes have joined"),
        lead(recipe) as announce,
    ):
        announce("train", steps_of_recipe(recipe)[Step("train", 0)])


def test_a_file_that_this_node_does_not_see_is_told(recipe, ran, monkeypatch):
    monkeypatch.setattr(nodes, "_SEE_TIME", 0.2)
    steps_of_recipe(recipe)[Step("train", 0)].unlink()
    messages_of_the_run(recipe, Step("train", 0)._asdict())
    with pytest.raises(TaskFailedError, match="is not seen on this node"):
        follow(recipe)
    assert ran == []


def test_the_secret_of_a_run_is_for_its_owner_alone(tmp_path, monkeypatch):
    monkeypatch.delenv("SEFE_SECRET", raising=False)
    assert Secret.of_run(tmp_path) is None
    made = Secret.of_run(tmp_path / "run", create=True)
    file = tmp_path / "run" / ".nodes.secret"
    assert (file.stat().st_mode & 0o777, len(made.text)) == (0o600, 64)
    assert Secret.of_run(tmp_path / "run") == made
    assert Secret.of_run(tmp_path / "run", create=True).text != made.text  # a new one for every run
    file.chmod(0o640)
    with pytest.raises(RecipeError, match="must be readable for you alone"):
        Secret.of_run(tmp_path / "run")
    made.remove()
    assert not file.exists()
    monkeypatch.setenv("SEFE_SECRET", "short")
    with pytest.raises(RecipeError, match="SEFE_SECRET must have at least 16 characters") as error:
        Secret.of_run(tmp_path)
    assert "short" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"NODE_RANK": None, "MASTER_PORT": None}, "NODE_RANK and MASTER_PORT is not set"),
        ({"NNODES": "two"}, "NNODES must be the number of nodes; got 'two'"),
        ({"NNODES": "0"}, "NNODES must be the number of nodes; got '0'"),
        ({"NODE_RANK": "2"}, "NODE_RANK must be a whole number from 0 to 1; got '2'"),
        ({"MASTER_PORT": "65535"}, "MASTER_PORT must be a whole number from 1 to 65534; got '65535'"),
    ],
)
def test_wrong_variables_are_named(monkeypatch, changes, expected):
    for name, value in (variables(0, 29500) | changes).items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    (error,) = environment_errors()
    assert expected in error


def test_one_node_needs_no_variables(monkeypatch):
    for name in ("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert environment_errors() == []


def test_the_secret_of_a_run_is_no_foreign_file(tmp_path):
    from sefe_plugin.hosts.llamafactory.keys import host_keys
    from sefe_plugin.run.folder import RunFolder

    Path(tmp_path, ".nodes.secret").touch()
    assert RunFolder(tmp_path).open_run({"tasks": []}, host_keys()) == []
