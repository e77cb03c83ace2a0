"""Profiles: what the settings may say of them, and what they mean for a machine."""

from pathlib import Path

import pytest

from nspawn_runner.errors import HostError
from nspawn_runner.machines import confinement as rights
from nspawn_runner.machines.records import Record
from nspawn_runner.settings import profiles
from nspawn_runner.settings.machine_settings import for_machines
from nspawn_runner.settings.parse import parse
from nspawn_runner.settings.profiles import BUILT_IN, Bind, Profile
from nspawn_runner.settings.tables import Settings

FILE = "/etc/nspawn-runner/nspawn-runner.toml"
UNIT = Path(rights.__file__).with_name("run-systemd-nspawn.mount")
NESTING = BUILT_IN["nesting"]


def record(**changed: object) -> Record:
    known = dict.fromkeys(Record._fields, "")
    made = Record(**{**known, "backend": "overlay", "layer": "/layer", "slot": 7, "user_namespace": True})  # type: ignore[arg-type]
    return made._replace(**changed)  # type: ignore[arg-type]


def test_the_default_adds_nothing() -> None:
    assert rights.nspawn_options(BUILT_IN["default"], record()) == []
    properties = rights.confinement(BUILT_IN["default"], record())
    assert [text for text in properties if "=/dev/" in text] == ["DeviceAllow=/dev/char/10:200 rwm"]
    assert parse(b"", FILE).profile == "default"


def test_own_profiles_begin_as_their_base() -> None:
    content = b"""
profile = "late"
[profiles.late]
base = "early"
devices = []
no_new_privileges = true
[profiles.early]
base = "nesting"
binds = ["/srv/a", "/srv/b:/mnt:rw"]
devices = ["/dev/kvm"]
tmpfs = { "/tmp" = "1G" }
[profiles.plain]
"""
    found = parse(content, FILE)
    early = NESTING._replace(binds=("/srv/a", "/srv/b:/mnt:rw"), devices=("/dev/kvm",), tmpfs={"/tmp": "1G"})
    assert found.profiles == {
        "late": early._replace(devices=(), no_new_privileges=True),
        "early": early,
        "plain": Profile(),
    }


MISTAKES = """\
profile = "nonesuch"
[profiles.trusted]
[profiles.one]
base = "two"
capabilities = ["SYSLOG"]
drop_capabilities = "CAP_NET_RAW"
system_calls = ["@mount keyctl"]
address_families = ["VSOCK"]
devices = ["/etc/shadow"]
[profiles.two]
base = "one"
binds = ["/srv:/proc/x"]
tmpfs = { "/sys/x" = "1G" }
volumes = ["/"]
network = "bridge"
user_namespace = "no"
[profiles.three]
base = "four"
bind = ["/srv"]
[[policy]]
profiles = ["nesting", "nonesuch"]
"""
TOLD = """\
line 1: profile: there is no profile nonesuch (there are default, nesting, trusted, one, two, three)
line 2: profiles.trusted: is built in: name yours otherwise, with this one as base
line 4: profiles.one.base: leads back to one
line 5: profiles.one.capabilities: must be a list of capabilities such as CAP_SYSLOG, not 'SYSLOG'
line 6: profiles.one.drop_capabilities: must be a list of capabilities such as CAP_NET_RAW
line 7: profiles.one.system_calls: must be a list of system calls and @groups of them, ~ before those to forbid, \
not '@mount keyctl'
line 8: profiles.one.address_families: must be a list of families of sockets such as AF_VSOCK, not 'VSOCK'
line 9: profiles.one.devices: must be a list of paths in /dev, - before those that the host need not have, \
not '/etc/shadow'
line 11: profiles.two.base: leads back to two
line 12: profiles.two.binds: must be a list of "SOURCE", "SOURCE:TARGET" or "SOURCE:TARGET:rw,noidmap": absolute paths \
of letters, digits and . _ + @ -, in the machine not in /proc, /sys and /dev, not '/srv:/proc/x'
line 13: profiles.two.tmpfs: must be a table of "path in the machine" = "size", as in "/tmp" = "2G"
line 14: profiles.two.volumes: must be a list of absolute paths of letters, digits and . _ + @ -, in the machine \
not in /proc, /sys and /dev, not '/'
line 15: profiles.two.network: must be "private", "none", "host", or "" as in [network]
line 16: profiles.two.user_namespace: must be true or false
line 18: profiles.three.base: must be one of default, nesting, trusted, one, two, three
line 19: profiles.three.bind: no such setting (did you mean binds?)
line 21: policy.1.profiles: there is no profile nonesuch (there are default, nesting, trusted, one, two, three)"""


def test_all_mistakes_are_told_with_their_lines() -> None:
    with pytest.raises(HostError) as raised:
        parse(MISTAKES.encode(), FILE)
    assert raised.value.facts.split("; ") == TOLD.splitlines()


@pytest.mark.parametrize("content", ["profiles = 3", "profiles = []", "profiles = { x = 1 }", '[profiles."a b"]'])
def test_what_is_no_profile(content: str) -> None:
    with pytest.raises(HostError) as raised:
        parse(content.encode(), FILE)
    assert "line 1: profiles" in raised.value.facts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a", Bind("/a", "/a")),
        ("/a:/b", Bind("/a", "/b")),
        ("/a:/b:rw", Bind("/a", "/b", writable=True)),
        ("/a:/b:noidmap,rw", Bind("/a", "/b", writable=True, idmapped=False)),
    ],
)
def test_binds_are_read(text: str, expected: Bind) -> None:
    assert profiles.bind(text) == expected


@pytest.mark.parametrize("text", ["a", "/a:", "/a:b", "/a:/b:", "/a:/b:ro", "/a:/b:rw:rw", "/a:/b c", "/a:/../b", ""])
def test_bad_binds_are_refused(text: str) -> None:
    with pytest.raises(HostError, match="wrong in 1 place"):
        parse(f'[profiles.x]\nbinds = ["{text}"]'.encode(), FILE)


def test_the_image_stands_over_the_profile_over_the_file() -> None:
    file = parse(b'profile = "trusted"\n[network]\nmode = "none"', FILE)
    assert (file.user_namespace, file.network.mode) == (True, "none")
    meant = for_machines(file)
    assert (meant.profile, meant.user_namespace, meant.network.mode) == ("trusted", False, "host")
    meant = for_machines(file, {"network": "private"}, "web")
    assert (meant.profile, meant.user_namespace, meant.network.mode) == ("trusted", False, "private")
    meant = for_machines(file, {"profile": "nesting"}, "web")
    assert (meant.profile, meant.user_namespace, meant.network.mode) == ("nesting", True, "none")


def test_an_image_may_have_an_own_profile() -> None:
    file = parse(b'[profiles.mine]\nnetwork = "none"', FILE)
    assert for_machines(file, {"profile": "mine"}, "web").network.mode == "none"
    with pytest.raises(HostError) as raised:
        for_machines(Settings(), {"profile": "mine"}, "web")
    assert raised.value.facts == "profile: there is no profile mine (there are default, nesting, trusted)"


def test_what_a_profile_means(tmp_path: Path) -> None:
    profile = Profile(
        no_new_privileges=True,
        suppress_sync=False,
        capabilities=("CAP_SYSLOG", "CAP_BPF"),
        drop_capabilities=("CAP_NET_RAW",),
        system_calls=("@keyring", "~@mount"),
        devices=("/dev/null", "-/dev/nonesuch"),
        binds=(f"{tmp_path}:/a", f"{tmp_path}:/b:rw", f"{tmp_path}:/c:noidmap"),
        tmpfs={"/tmp": "1G", "/srv": "10%"},
        volumes=("/var/lib/x", "/var/lib/y"),
        nspawn=True,
    )
    assert rights.nspawn_options(profile, record()) == [
        "--system-call-filter=@keyring",
        "--system-call-filter=~@mount",
        "--capability=CAP_SYSLOG,CAP_BPF",
        "--drop-capability=CAP_NET_RAW",
        "--no-new-privileges=yes",
        "--bind=/dev/null",
        "--bind=/layer/volumes/0:/var/lib/x",
        "--bind=/layer/volumes/1:/var/lib/y",
        f"--bind-ro={UNIT}:/etc/systemd/system/run-systemd-nspawn.mount",
        "--tmpfs=/tmp:size=1G,mode=1777",
        "--tmpfs=/srv:size=10%,mode=0755",
        f"--bind-ro={tmp_path}:/a:idmap",
        f"--bind={tmp_path}:/b:idmap",
        f"--bind-ro={tmp_path}:/c",
    ]
    confinement = rights.confinement(profile, record())
    assert confinement[-1] == "DeviceAllow=/dev/null rwm"
    assert not [text for text in confinement if "sync:" in text]
    assert any(" fsync:0 " in text for text in rights.confinement(Profile(), record()))
    assert rights.boot_words(profile) == ["systemd.wants=run-systemd-nspawn.mount"]
    assert rights.boot_words(Profile()) == []
    bare = rights.nspawn_options(profile, record(user_namespace=False, backend="btrfs"))
    assert f"--bind-ro={tmp_path}:/a" in bare
    assert not [option for option in bare if "volumes" in option]


@pytest.mark.parametrize("profile", [Profile(binds=("/nonesuch",)), Profile(devices=("/dev/nonesuch",))])
def test_what_the_host_lacks_is_named(profile: Profile) -> None:
    with pytest.raises(HostError, match=r"the profile mine needs .*/nonesuch, which the host does not have"):
        rights.nspawn_options(profile, record(profile="mine"))
