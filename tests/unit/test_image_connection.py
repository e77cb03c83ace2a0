"""How Ansible's connection calls nspawn, nsenter and systemd-run."""

import os

import pytest

from nspawn_runner.errors import HostError
from nspawn_runner.host import systemd
from nspawn_runner.images.ansible import container_main, containers
from nspawn_runner.images.connection_plugins import FOLDER
from nspawn_runner.nspawn import execute

ORDER = container_main.Order(
    root="/tree", machine="m", hostname="h", state="/s", boot=False, user_namespace=True, private_network=False
)
WORDS = ["/bin/sh", "-c", "echo '$HOME $$' \"it's\"\nexit 3"]


def test_the_plugin_has_the_name_of_its_file() -> None:
    assert "nspawn.py" in os.listdir(FOLDER)


def test_a_command_enters_word_by_word() -> None:
    place = execute.Container(leader=os.getpid(), uid=0x7FFE0000)
    argv = execute._nsenter_argv(place, WORDS)
    assert argv[:4] == ["nsenter", f"--target={os.getpid()}", "--all", "--root"]
    assert argv[-3:] == WORDS


def test_without_user_namespace_capabilities_are_the_container_s() -> None:
    [setpriv, bounding, *_] = execute._nsenter_argv(execute.Container(leader=os.getpid(), uid=0), WORDS)
    assert setpriv == "setpriv"
    assert bounding.startswith("--bounding-set=-all")


def test_a_unit_holds_nothing_of_the_command() -> None:
    argv = execute._unit_argv("m", "u.service")
    assert argv[argv.index("--") + 1 :] == ["/bin/sh", "/proc/self/fd/0"]


@pytest.mark.parametrize("odd", ["$x", "50%", "it's", '"', "back\\slash", "two\nlines"])
def test_what_a_units_file_would_not_give_back_is_refused(odd: str) -> None:
    assert systemd.run_argv(["true", "a b"], unit="u.service", description="words", properties=["CPUQuota=150%"])
    for command, description, properties in (
        (["true", odd], "words", []),
        (["true"], odd, []),
        (["true"], "words", [f"BindPaths={odd}"]),
    ):
        with pytest.raises(HostError, match="no unit can hold"):
            systemd.run_argv(command, unit="u.service", description=description, properties=properties)
    assert systemd.run_argv(["true"], unit="u.service", description=systemd.plain(odd))


def test_a_container_ends_in_good_order_with_its_keeper() -> None:
    argv = container_main.nspawn_argv(ORDER)
    assert argv[:3] == ["setpriv", "--pdeathsig", "TERM"]
    assert {"--as-pid2", "--boot"}.isdisjoint(argv)
    assert {"--hostname=h", "--directory=/tree", "--private-users-ownership=map"} <= set(argv)
    assert "--private-network" not in argv


def test_a_booted_tree_leaves_the_host_s_network_alone() -> None:
    argv = container_main.nspawn_argv(ORDER._replace(boot=True, user_namespace=False, private_network=True))
    assert argv[:3] == ["setpriv", "--pdeathsig", "TERM"]
    assert {"--boot", "--private-network", "systemd.mask=systemd-networkd.service"} <= set(argv)
    assert not [word for word in argv if word.startswith("--private-users")]


def test_a_keeper_is_of_one_process_tree_and_settings() -> None:
    made = {
        containers._state("/tree", os.getpid(), (False, True)),
        containers._state("/tree", os.getpid(), (True, True)),
        containers._state("/other", os.getpid(), (True, True)),
        containers._state("/tree", os.getppid(), (True, True)),
    }
    assert len(made) == 4
    assert containers._state("/tree", os.getpid(), ()) == containers._state("/x/../tree/", os.getpid(), ())


def test_a_tree_that_is_none_is_told() -> None:
    with pytest.raises(HostError, match="there is no tree /nowhere"):
        containers._order("/nowhere", "/s", False, True, False)


def test_root_s_uid_is_read_from_the_map() -> None:
    assert execute.root_uid(os.getpid()) == 0
    assert execute.root_uid(1 << 30) == 0
