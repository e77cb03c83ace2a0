"""Container images in a folder: list them, and find the layers of one.

Two kinds: an OCI image layout (OCI image specification 1.1, "Image Layout", "Image Index", "Image Manifest", "Image
Configuration"), and what `docker save` writes (Docker image specification 1.2, "Combined Image JSON + Filesystem
Changeset Format": manifest.json). None of it is trusted: digests are checked, paths stay inside the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any, NamedTuple

from ...errors import HostError
from ...host import beneath

_MOST_JSON_BYTES = 4 << 20
_MOST_LAYERS = 1000
_MOST_DEPTH = 4
_MOST_IMAGES = 10000
_HEX_DIGITS = {"sha256": 64, "sha512": 128}
_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
# uname -m → the name in Go (GOARCH) and in the specification.
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386", "riscv64": "riscv64",
                  "ppc64le": "ppc64le", "s390x": "s390x"}  # fmt: skip


class Layer(NamedTuple):
    """A layer: ``path`` in the folder; ``digest`` of that file (empty: unknown), ``diff_id`` of it unpacked."""

    path: str
    digest: str
    diff_id: str


class Candidate(NamedTuple):
    """An available image: its names, its platform, and where its manifest is (docker: its number)."""

    names: tuple[str, ...]
    platform: str
    manifest: str


class Found(NamedTuple):
    """An image that was found: its layers, lowest first, its unchanged configuration, and its name."""

    layers: list[Layer]
    configuration: Any
    title: str


def kind(root: str) -> str:
    """Return "oci" or "docker" if the folder ``root`` holds container images, else an empty string."""
    if beneath.exists(root, "oci-layout") and beneath.exists(root, "index.json"):
        return "oci"
    return "docker" if beneath.exists(root, "manifest.json") and not beneath.exists(root, "etc") else ""


def find_layers(root: str, *, reference: str, machine: str) -> Found:
    """Return the layers, the name and the configuration of the image ``reference`` in the folder ``root``.

    Without a reference, there must be one image for the architecture ``machine`` (``uname -m``). Raises HostError.
    """
    try:
        if kind(root) == "oci":
            chosen = choose(oci_candidates(root), reference=reference, machine=machine)
            return Found(*_oci_layers(root, chosen.manifest), _title(chosen))
        saved = _array(_json(root, "manifest.json", ""), "manifest.json")
        chosen = choose(docker_candidates(saved), reference=reference, machine=machine)
        return Found(*_docker_layers(root, saved[int(chosen.manifest)]), _title(chosen))
    except RecursionError:
        raise _wrong("it is nested too deep") from None


def choose(candidates: list[Candidate], *, reference: str, machine: str) -> Candidate:
    """Return the wanted one of ``candidates``; raises HostError that lists them when the choice is ambiguous."""
    named = [each for each in candidates if not reference or _is_called(each, reference)]
    here = f"linux/{_ARCHITECTURES.get(machine, machine)}"
    fitting = [each for each in named if not each.platform or f"{each.platform}/".startswith(f"{here}/")]
    if len({each.manifest for each in fitting}) == 1:
        return fitting[0]
    there = ", ".join(sorted({_title(each) for each in candidates})) or "none"
    if not fitting:
        what = f"there is no image {reference} for {here} in it" if reference else f"there is no image for {here} in it"
        raise HostError(what, facts=f"images: {there}")
    raise HostError("there are several images in it", facts=f"images: {there}", advice="choose one with --reference")


def oci_candidates(root: str) -> list[Candidate]:
    """Return the images that the OCI layout ``root`` lists, including those in nested indexes."""
    found: list[Candidate] = []
    waiting: list[tuple[Any, tuple[str, ...], int]] = [(_json(root, "index.json", ""), (), 0)]
    while waiting:
        index, names, depth = waiting.pop()
        for entry in _array(_object(index, "index").get("manifests"), "manifests"):
            descriptor = _object(entry, "descriptor")
            digest = _digest(descriptor.get("digest"))
            called = _names(descriptor, digest) or names
            if descriptor.get("mediaType") in _INDEXES:
                if depth >= _MOST_DEPTH or len(waiting) > _MOST_IMAGES:
                    raise _wrong("indexes are nested too deep")
                waiting.append((_json(root, _blob(digest), digest), called, depth + 1))
            else:
                found.append(Candidate(called, _platform(descriptor.get("platform")), digest))
            if len(found) > _MOST_IMAGES:
                raise _wrong("there are too many images")
    # Attestations are listed beside images, as images for an unknown platform.
    return [each for each in found if not each.platform.startswith("unknown")]


def docker_candidates(saved: list[Any]) -> list[Candidate]:
    """Return the images that the content of a manifest.json lists."""
    found = []
    for number, entry in enumerate(saved):
        image = _object(entry, "manifest.json")
        tags = tuple(_text(tag, "RepoTags") for tag in _array(image.get("RepoTags") or [], "RepoTags"))
        found.append(Candidate((*tags, _text(image.get("Config"), "Config").removesuffix(".json")), "", str(number)))
    return found


def _oci_layers(root: str, digest: str) -> tuple[list[Layer], Any]:
    manifest = _object(_json(root, _blob(digest), digest), "manifest")
    layers = _array(manifest.get("layers"), "layers")
    config_digest = _digest(_object(manifest.get("config"), "config").get("digest"))
    config = _json(root, _blob(config_digest), config_digest)
    found = []
    for entry, diff_id in zip(layers, _diff_ids(config, len(layers)), strict=True):
        layer = _object(entry, "layer")
        media_type = _text(layer.get("mediaType"), "mediaType")
        if (".layer." not in media_type and ".diff.tar" not in media_type) or "encrypted" in media_type:
            raise HostError("it is not a file system image", facts=f"a layer has the type {media_type}")
        layer_digest = _digest(layer.get("digest"))
        found.append(Layer(_blob(layer_digest), layer_digest, diff_id))
    return found, config


def _docker_layers(root: str, entry: Any) -> tuple[list[Layer], Any]:
    image = _object(entry, "manifest.json")
    paths = [_text(path, "Layers") for path in _array(image.get("Layers"), "Layers")]
    config_path = _text(image.get("Config"), "Config")
    name = os.path.basename(config_path).removesuffix(".json")
    digest = f"sha256:{name}" if len(name) == 64 else ""
    config = _json(root, config_path, digest)
    diff_ids = _diff_ids(config, len(paths))
    return [Layer(path, "", diff_id) for path, diff_id in zip(paths, diff_ids, strict=True)], config


def _diff_ids(config: Any, count: int) -> list[str]:
    rootfs = _object(_object(config, "configuration").get("rootfs"), "rootfs")
    found = [_digest(each) for each in _array(rootfs.get("diff_ids"), "diff_ids")]
    if len(found) != count or not 0 < count <= _MOST_LAYERS:
        raise _wrong(f"{count} layers, but {len(found)} digests of layers")
    return found


def check_digest(fd: int, digest: str, path: str) -> None:
    """Compare the content of ``fd`` with ``digest``; raises HostError when they differ."""
    os.lseek(fd, 0, os.SEEK_SET)
    with open(os.dup(fd), "rb") as file:
        found = hashlib.file_digest(file, digest.partition(":")[0]).hexdigest()
    if found != digest.partition(":")[2]:
        raise HostError(f"the digest of {path} is wrong", facts=f"expected {digest}, found {found}",
                        advice="the archive is damaged or was changed: get it again")  # fmt: skip


def open_blob(root: str, path: str) -> int:
    """Open the file ``path`` of the layout ``root``, resolving links as if ``root`` were "/"."""
    try:
        return beneath.open_file(root, path)
    except OSError as error:
        raise HostError(f"{path} is missing in the image", facts=str(error.strerror)) from None


def _json(root: str, path: str, digest: str) -> Any:
    fd = open_blob(root, path)
    try:
        if digest:
            check_digest(fd, digest, path)
        content = os.pread(fd, _MOST_JSON_BYTES + 1, 0)
    finally:
        os.close(fd)
    if len(content) > _MOST_JSON_BYTES:
        raise _wrong(f"{path} has more than {_MOST_JSON_BYTES >> 20} MiB")
    try:
        return json.loads(content)
    except ValueError as error:
        raise _wrong(f"{path} is not JSON: {error}") from None


def _names(descriptor: dict[str, Any], digest: str) -> tuple[str, ...]:
    annotations = _object(descriptor.get("annotations") or {}, "annotations")
    keys = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
    names = tuple(annotations[key] for key in keys if isinstance(annotations.get(key), str))
    return (*names, digest) if names else ()


def _is_called(candidate: Candidate, reference: str) -> bool:
    """Return whether ``reference`` is a full name, a name without its registry, a tag, or a digest or its prefix."""
    wholes = (*candidate.names, candidate.manifest)
    return any(
        reference == name or name.endswith((f"/{reference}", f":{reference}"))
        or (len(reference) >= 6 and name.startswith((reference, f"sha256:{reference}")) and ":" in name[:8])
        for name in wholes
    )  # fmt: skip


def _title(candidate: Candidate) -> str:
    name = candidate.names[0] if candidate.names else candidate.manifest
    return f"{name} ({candidate.platform})" if candidate.platform else name


def _platform(platform: Any) -> str:
    if platform is None:
        return ""
    fields = _object(platform, "platform")
    return "/".join(str(fields[key]) for key in ("os", "architecture", "variant") if fields.get(key))


def _digest(value: Any) -> str:
    text = _text(value, "digest")
    algorithm, _, digits = text.partition(":")
    if len(digits) != _HEX_DIGITS.get(algorithm) or digits.strip("0123456789abcdef"):
        raise _wrong(f"{text[:100]!r} is not a digest")
    return text


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(f"{what} must be an object")
    return value


def _array(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(f"{what} must be an array")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 4096 or "\0" in value:
        raise _wrong(f"{what} must be a string")
    return value


def _wrong(reason: str) -> HostError:
    return HostError("it is not a valid container image", facts=reason)
