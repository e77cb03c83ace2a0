"""Read YAML as GitLab does, keeping each value's line, in bounded time and memory."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from ..errors import JobError
from .notices import Notices
from .values import MAX_DEPTH, MAX_VALUES, Budget, Date, Merge, Node, Reference, Value, kind, wrong

# GitLab's own limit for one file.
MAX_BYTES = 2 * 1024 * 1024
MAX_DIGITS = 100
MAX_DOCUMENTS = 2  # GitLab: a header with spec, and the pipeline


def parse(content: bytes, file: str, budget: Budget, notices: Notices | None = None) -> Node:
    """Return the first document in ``content``; see ``documents``."""
    return documents(content, file, budget, notices or Notices())[0]


def documents(content: bytes, file: str, budget: Budget, notices: Notices) -> list[Node]:
    """Return the one or two documents in ``content``; ``file`` is its name in messages.

    Raises JobError for content that is not UTF-8 or not YAML, or is too large or too deep, and for keys that are not
    strings, tags other than ``!reference``, and a third document. Of duplicate keys the last counts, with a notice.
    Merge keys apply in the order they are written, a list of them from last to first, as in Ruby's YAML, which GitLab
    uses.
    """
    import yaml

    text = _text(content, file)
    # libyaml if PyYAML has it: about ten times faster. Events, not nodes: composing nodes recurses without a limit.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    builder = _Builder(file, budget, notices)
    try:
        for event in yaml.parse(text, Loader=loader):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if mark is not None and (line := _too_deep(text[: mark.index], loader)):
            raise _depth(builder.at(line)) from None
        where = f"{file}:{mark.line + 1}" if mark is not None else file
        raise JobError(f"{where}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, OverflowError):  # the last two for "\\U00110000", without libyaml
        raise JobError(f"{file}: not valid YAML") from None
    if not builder.roots:
        raise JobError(f"{file}: the file is empty")
    return builder.roots


def _too_deep(text: str, loader: Any) -> int:
    """Return the line where ``text`` is nested deeper than we allow, 0 if nowhere.

    libyaml 0.2.6 has a limit of its own, and reads a line ahead of its events: a text that it refuses is checked
    against our limit first, so that the message is the same with every version.
    """
    import yaml

    event: Any
    depth = 0
    with suppress(yaml.YAMLError):
        for event in yaml.parse(text, Loader=loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                return int(event.start_mark.line + 1)
    return 0


def _depth(node: Node) -> JobError:
    return wrong(node, f"nested more than {MAX_DEPTH} levels deep")


def _text(content: bytes, file: str) -> str:
    from yaml.reader import Reader

    if len(content) > MAX_BYTES:
        raise JobError(f"{file}: the file is larger than {MAX_BYTES // 1024 // 1024} MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise JobError(f"{file}:{line}: the file is not UTF-8 text") from None
    odd = Reader.NON_PRINTABLE.search(text)
    if odd:
        line = text.count("\n", 0, odd.start()) + 1
        raise JobError(f"{file}:{line}: the file has a control character (U+{ord(odd.group()):04X})")
    return text


class _Frame:
    """A collection that is being read: a list, or a mapping, perhaps with a key that waits for its value."""

    def __init__(self, node: Node, anchor: str | None, *, reference: bool) -> None:
        self.node = node
        self.anchor = anchor
        self.reference = reference
        self.key: Node | None = None
        self.written: dict[str, int] = {}


class _Builder:
    """Builds one Node from the parser's events, with a stack of its own instead of recursion."""

    def __init__(self, file: str, budget: Budget, notices: Notices) -> None:
        self.file = file
        self.budget = budget
        self.notices = notices
        self.roots: list[Node] = []
        self.stack: list[_Frame] = []
        self.anchors: dict[str, Node | None] = {}

    def take(self, event: Any) -> None:
        import yaml

        line = event.start_mark.line + 1
        if isinstance(event, yaml.ScalarEvent):
            self.add(Node(_scalar(event, self.at(line)), self.file, line), event.anchor)
        elif isinstance(event, yaml.AliasEvent):
            self.add(self.aliased(str(event.anchor), line), None)
        elif isinstance(event, yaml.CollectionStartEvent):
            self.open(event, line)
        elif isinstance(event, yaml.CollectionEndEvent):
            self.close()
        elif isinstance(event, yaml.DocumentStartEvent):
            if len(self.roots) == MAX_DOCUMENTS:
                raise wrong(self.at(line), f"more than {MAX_DOCUMENTS} documents (parts after ---)")
            self.anchors = {}

    def at(self, line: int) -> Node:
        return Node(None, self.file, line)

    def aliased(self, anchor: str, line: int) -> Node:
        if anchor not in self.anchors:
            raise wrong(self.at(line), f"the alias *{anchor} has no anchor &{anchor} above it in this file")
        node = self.anchors[anchor]
        if node is None:
            raise wrong(self.at(line), f"the alias *{anchor} is inside its own anchor")
        return node

    def open(self, event: Any, line: int) -> None:
        import yaml

        mapping = isinstance(event, yaml.MappingStartEvent)
        node = Node({} if mapping else [], self.file, line)
        if len(self.stack) >= MAX_DEPTH:
            raise _depth(node)
        reference = event.tag == "!reference" and not mapping
        if not reference and event.tag not in {None, "!", f"tag:yaml.org,2002:{'map' if mapping else 'seq'}"}:
            raise wrong(node, f"the tag {_shown(event.tag)} is not supported here")
        if event.anchor:
            self.anchors[event.anchor] = None
        self.stack.append(_Frame(node, event.anchor, reference=reference))

    def close(self) -> None:
        frame = self.stack.pop()
        node = frame.node
        if isinstance(node.value, dict):
            children = list(node.value.values())
        else:
            children = node.value if isinstance(node.value, list) else []
        if frame.reference:
            node = node._replace(value=_reference(children))
        size = 1 + sum(child.size for child in children)
        if size > MAX_VALUES:
            raise wrong(node, f"the aliases here expand to more than {MAX_VALUES} values")
        depth = 1 + max((child.depth for child in children), default=0)
        if depth > MAX_DEPTH:
            raise wrong(node, f"aliases are nested more than {MAX_DEPTH} levels deep")
        self.add(node._replace(size=size, depth=depth), frame.anchor)

    def add(self, node: Node, anchor: str | None) -> None:
        """Put the complete ``node`` where it belongs: the root, an item or value of the open collection, or a key."""
        self.budget.spend(1, node)
        if anchor:
            self.anchors[anchor] = node
        if not self.stack:
            self.roots.append(node)
            return
        frame = self.stack[-1]
        if isinstance(frame.node.value, list):
            if isinstance(node.value, Merge):
                node = node._replace(value="<<")
            frame.node.value.append(node)
        elif frame.key is None:
            frame.key = node
        else:
            key, frame.key = frame.key, None
            self.pair(frame, key, node)

    def pair(self, frame: _Frame, key: Node, node: Node) -> None:
        mapping = frame.node.value
        assert isinstance(mapping, dict)  # noqa: S101  (tells mypy what open() made)
        if isinstance(node.value, Merge):
            node = node._replace(value="<<")
        if isinstance(key.value, Merge):
            for part in _merged(key, node):
                self.budget.spend(len(part), key)
                mapping.update(part)
        elif not isinstance(key.value, str):
            raise wrong(key, f"a key is {kind(key)}; it must be a string", advice="put the key in quotes")
        else:
            if key.value in frame.written:
                self.notices.say(
                    f'{key.file}:{key.line}: the key "{key.value}" is there twice, first in line '
                    f"{frame.written[key.value]}; this one counts"
                )
            frame.written[key.value] = key.line
            mapping[key.value] = node._replace(file=key.file, line=key.line)


def _merged(key: Node, node: Node) -> list[dict[str, Node]]:
    """Return the mappings under a ``<<`` in the order in which they apply; later ones override."""
    parts = node.value if isinstance(node.value, list) else [node]
    mappings = [part.value for part in parts if isinstance(part.value, dict)]
    if len(mappings) < len(parts):
        raise wrong(key, "<< needs a mapping or a list of mappings")
    return mappings[::-1]


def _reference(children: list[Node]) -> Reference:
    """Return what the list names; one that is not of strings names nothing, which the job that uses it says."""
    path = tuple(child.value for child in children if isinstance(child.value, str))
    return Reference(path if len(path) == len(children) else ())


def _scalar(event: Any, node: Node) -> Value:
    """Return the value of a scalar by the rules of YAML 1.1, which PyYAML and GitLab both follow."""
    import yaml

    text: str = event.value
    tag: str = event.tag or "!"
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise wrong(node, "a string has half a character (a surrogate)")
    if event.tag is None and event.implicit[0]:
        resolver: Any = yaml.resolver.Resolver()
        tag = resolver.resolve(yaml.ScalarNode, text, (True, False))
    elif tag not in {"!", "tag:yaml.org,2002:str"}:
        raise wrong(node, f"the tag {_shown(tag)} is not supported here")
    match tag.removeprefix("tag:yaml.org,2002:"):
        case "null":
            return None
        case "merge":
            return Merge()
        case "timestamp":
            return Date(text)
        case "bool":
            return text.lower() in {"yes", "true", "on"}
        case "int" | "float" as number:
            return _number(text, number, node)
    return text


def _number(text: str, tag: str, node: Node) -> int | float | str:
    from yaml import ScalarNode
    from yaml.constructor import SafeConstructor

    if len(text) > MAX_DIGITS:
        raise wrong(node, f"a number of more than {MAX_DIGITS} digits", advice="put it in quotes")
    scalar = ScalarNode(f"tag:yaml.org,2002:{tag}", text)
    try:
        if tag == "int":
            return int(SafeConstructor().construct_yaml_int(scalar))
        return float(SafeConstructor().construct_yaml_float(scalar))
    except (ValueError, OverflowError):  # such as 0x_, which looks like a number
        return text


def _shown(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")
