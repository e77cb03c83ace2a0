"""Container images in a folder: which is meant, where its layers are, and that nothing in them is believed."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nspawn_runner.errors import HostError
from nspawn_runner.images.archive import archives, layouts
from nspawn_runner.images.archive.layouts import Candidate

DIFF_ID = "sha256:" + "1" * 64
INDEX = "application/vnd.oci.image.index.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def blob(root: Path, content: Any) -> str:
    """Write a blob (JSON unless it is bytes) and return its digest."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    digest = hashlib.sha256(data).hexdigest()
    (root / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    (root / "blobs/sha256" / digest).write_bytes(data)
    return f"sha256:{digest}"


def image(root: Path, layers: list[bytes], **changes: Any) -> str:
    config = blob(root, {"rootfs": {"type": "layers", "diff_ids": [DIFF_ID] * len(layers)}})
    described = [{"mediaType": LAYER, "digest": blob(root, layer), "size": len(layer)} for layer in layers]
    return blob(root, {"schemaVersion": 2, "config": {"digest": config}, "layers": described, **changes})


def descriptor(digest: str, name: str = "", platform: str = "", **more: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, **more}
    if name:
        entry["annotations"] = {"org.opencontainers.image.ref.name": name}
    if platform:
        entry["platform"] = dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))
    return entry


def layout(root: Path, *descriptors: dict[str, Any]) -> None:
    (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": descriptors}))


def find(root: Path, reference: str = "", machine: str = "x86_64") -> tuple[list[layouts.Layer], str]:
    found = layouts.find_layers(str(root), reference=reference, machine=machine)
    return found.layers, found.title


def test_the_layers_of_the_only_image(tmp_path: Path) -> None:
    layout(tmp_path, descriptor(image(tmp_path, [b"one", b"two"]), "tools:2"))
    layers, title = find(tmp_path)
    assert [(tmp_path / layer.path).read_bytes() for layer in layers] == [b"one", b"two"]
    assert {layer.diff_id for layer in layers} == {DIFF_ID}
    assert title == "tools:2"


@pytest.mark.parametrize(("machine", "content"), [("x86_64", b"amd"), ("aarch64", b"arm")])
def test_the_image_for_this_architecture(tmp_path: Path, machine: str, content: bytes) -> None:
    amd, arm, attested = (image(tmp_path, [text]) for text in (b"amd", b"arm", b"attested"))
    both = blob(
        tmp_path,
        {
            "manifests": [
                descriptor(amd, platform="linux/amd64"),
                descriptor(arm, platform="linux/arm64/v8"),
                descriptor(attested, platform="unknown/unknown"),
            ]
        },
    )
    layout(tmp_path, descriptor(both, "tools:2") | {"mediaType": INDEX})
    [layer], title = find(tmp_path, machine=machine)
    assert (tmp_path / layer.path).read_bytes() == content
    assert title.startswith("tools:2 (linux/")
    with pytest.raises(HostError, match="there is no image for linux/riscv64"):
        find(tmp_path, machine="riscv64")


CANDIDATES = [
    Candidate(("registry.example.com:5000/group/tools:2", "sha256:" + "a" * 64), "", "sha256:" + "a" * 64),
    Candidate(("tools:3",), "", "sha256:" + "b" * 64),
]


@pytest.mark.parametrize(
    ("reference", "number"),
    [
        ("registry.example.com:5000/group/tools:2", 0),
        ("group/tools:2", 0),
        ("tools:2", 0),
        ("2", 0),
        ("tools:3", 1),
        ("3", 1),
        ("sha256:" + "b" * 64, 1),
        ("b" * 12, 1),
        ("sha256:" + "b" * 12, 1),
    ],
)
def test_one_of_several_is_chosen(reference: str, number: int) -> None:
    assert layouts.choose(CANDIDATES, reference=reference, machine="x86_64") == CANDIDATES[number]


@pytest.mark.parametrize(
    ("reference", "what"), [("", "there are several images"), ("ools:2", "no image ools:2"), ("tools", "no image")]
)
def test_what_is_not_clear_is_told_with_what_there_is(reference: str, what: str) -> None:
    with pytest.raises(HostError, match=what) as raised:
        layouts.choose(CANDIDATES, reference=reference, machine="x86_64")
    assert "tools:3" in raised.value.facts


def save(root: Path, layers: list[str], diff_ids: list[str], *, tag: str = "tools:2", name: str = "") -> None:
    config = json.dumps({"rootfs": {"diff_ids": diff_ids}}).encode()
    file = name or f"{hashlib.sha256(config).hexdigest()}.json"
    (root / file).write_bytes(config)
    (root / "manifest.json").write_text(json.dumps([{"Config": file, "RepoTags": [tag], "Layers": layers}]))


def test_what_docker_saved(tmp_path: Path) -> None:
    save(tmp_path, ["1/layer.tar", "2/layer.tar"], [DIFF_ID, DIFF_ID])
    layers, title = find(tmp_path, "tools:2")
    assert [(layer.path, layer.digest) for layer in layers] == [("1/layer.tar", ""), ("2/layer.tar", "")]
    assert title == "tools:2"


def test_a_saved_configuration_is_compared_with_its_name(tmp_path: Path) -> None:
    save(tmp_path, ["layer.tar"], [DIFF_ID], name=f"{'a' * 64}.json")
    with pytest.raises(HostError, match=r"digest of a+\.json is wrong"):
        find(tmp_path)


def test_a_tree_of_files_is_no_container_image(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    assert layouts.kind(str(tmp_path)) == "docker"
    (tmp_path / "etc").mkdir()
    assert layouts.kind(str(tmp_path)) == ""


def test_a_changed_blob_is_found_out(tmp_path: Path) -> None:
    digest = image(tmp_path, [b"one"])
    layout(tmp_path, descriptor(digest))
    (tmp_path / "blobs/sha256" / digest.partition(":")[2]).write_text("{}")
    with pytest.raises(HostError, match="is wrong") as raised:
        find(tmp_path)
    assert digest in raised.value.facts


@pytest.mark.parametrize(
    "digest", ["../../etc/passwd", "sha256:../../../etc/passwd", "sha256:" + "A" * 64, "md5:" + "a" * 32, 7]
)
def test_a_digest_is_no_path(tmp_path: Path, digest: Any) -> None:
    layout(tmp_path, descriptor(digest))
    with pytest.raises(HostError, match="not a valid container image"):
        find(tmp_path)


def test_a_path_stays_inside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("secret")
    (root / "plain").write_text("plain")
    (root / "link").symlink_to("/plain")
    (root / "out").symlink_to("../secret")
    (root / "far").symlink_to(str(tmp_path / "secret"))
    for path in ("../secret", "out", "far", "a\0b", str(tmp_path / "secret"), "", "."):
        with pytest.raises(HostError, match="missing"):
            layouts.open_blob(str(root), path)
    for path in ("link", "/plain", "../plain"):
        fd = layouts.open_blob(str(root), path)
        with open(fd) as file:
            assert file.read() == "plain"


def test_indexes_in_circles_end(tmp_path: Path) -> None:
    digest = blob(tmp_path, {"manifests": []})
    for _ in range(6):
        digest = blob(tmp_path, {"manifests": [descriptor(digest) | {"mediaType": INDEX}]})
    layout(tmp_path, descriptor(digest) | {"mediaType": INDEX})
    with pytest.raises(HostError, match="valid container image"):
        find(tmp_path)


def test_json_that_is_too_deep(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[" * 100000)
    with pytest.raises(HostError, match="valid container image"):
        find(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from([DIFF_ID, INDEX, LAYER]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "manifests",
                    "digest",
                    "mediaType",
                    "annotations",
                    "platform",
                    "layers",
                    "config",
                    "rootfs",
                    "diff_ids",
                    "Config",
                    "RepoTags",
                    "Layers",
                    "os",
                    "org.opencontainers.image.ref.name",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=json_values, where=st.sampled_from(["index", "manifest", "config", "docker"]))
def test_no_json_does_more_than_fail(tmp_path: Path, value: Any, where: str) -> None:
    for old in ("oci-layout", "index.json", "manifest.json"):
        (tmp_path / old).unlink(missing_ok=True)
    if where == "docker":
        (tmp_path / "manifest.json").write_text(json.dumps([value]))
    else:
        config = blob(tmp_path, value if where == "config" else {"rootfs": {"diff_ids": [DIFF_ID]}})
        manifest = {"config": {"digest": config}, "layers": [{"mediaType": LAYER, "digest": DIFF_ID}]}
        layout(tmp_path, descriptor(blob(tmp_path, value if where == "manifest" else manifest)))
        if where == "index":
            (tmp_path / "index.json").write_text(json.dumps(value))
    with contextlib.suppress(HostError):
        find(tmp_path)


@pytest.mark.parametrize(
    ("head", "program"),
    [
        (b"\x1f\x8b\x08\0\0\0", "gzip"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x28\xb5\x2f\xfd\0\0", "zstd"),
        (b"BZh91A", "bzip2"),
        (b"./\0\0\0\0", ""),
        (b"", ""),
    ],
)
def test_compression_is_told_by_the_content(head: bytes, program: str) -> None:
    assert archives.compression(head) == program
