"""Griffe extension: fields that `Attributes:` of a class documents get no entries of their own."""

import griffe

HIDDEN = frozenset({"__check_init__", "__post_init__"})


class DocumentedFields(griffe.Extension):
    def on_attribute_instance(self, *, attr, **_):
        owner = attr.parent
        if attr.docstring is None and owner is not None and owner.is_class and owner.docstring:
            attr.public = False if "Attributes:" in owner.docstring.value else None

    def on_function_instance(self, *, func, **_):
        if func.name in HIDDEN:
            func.public = False
