"""Griffe extension: fields that `Attributes:` of a class documents get no entries of their own."""

import griffe

HIDDEN = frozenset({"__check_init__", "__post_init__"})


class DocumentedFields(griffe.Extension):
    """Shorten the entries of classes."""

    def on_package(self, *, pkg: griffe.Module, **_: object) -> None:
        """Remove members when the package is loaded."""
        shorten(pkg)


def shorten(node: griffe.Module | griffe.Class) -> None:
    """Remove documented fields and hidden methods of all classes below a node."""
    for name, member in list(node.members.items()):
        if member.is_alias:
            continue
        if member.is_module or member.is_class:
            shorten(member)
        if not node.is_class:
            continue
        documented = node.docstring is not None and "Attributes:" in node.docstring.value
        field = member.is_attribute and member.docstring is None
        if name in HIDDEN or (field and documented):
            if documented:
                # Parsing reads the types of the fields, so it must come first. It is cached.
                _ = node.docstring.parsed
            node.del_member(name)
