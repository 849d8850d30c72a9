"""Rebuilds the schema of AWS resources from their generated JavaScript typings.

The npm package of typings is generated from the provider's own schema, so attribute names, types, blocks and what is
required can be read back out of it. Each resource is a class; its settable arguments stand, with their types, in an
HCL mapping; every attribute, computed ones included, has a getter; an argument that can be reset is optional.

Usage: schema.py TYPINGS.tgz OUT.json TYPE...     where TYPE is `aws_lb` or `data.aws_region`

Known gaps: computed nested values and free-form documents come out untyped (`dynamic`), and of optional arguments only
the usual ones (OFTEN_COMPUTED) are known to be filled in by the provider.
"""

import json
import re
import sys
import tarfile

GETTER_TYPES = {
    "getStringAttribute": "string",
    "getNumberAttribute": "number",
    "getBooleanAttribute": "bool",
    "getListAttribute": ["list", "string"],
    "getNumberListAttribute": ["list", "number"],
    "getStringMapAttribute": ["map", "string"],
    "getNumberMapAttribute": ["map", "number"],
    "getBooleanMapAttribute": ["map", "bool"],
}
FIELD_TYPES = {
    "StringMap": ["map", "string"],
    "NumberMap": ["map", "number"],
    "BooleanMap": ["map", "bool"],
    "StringMapList": ["list", ["map", "string"]],
    "StringListList": ["list", ["list", "string"]],
    "StringListMap": ["map", ["list", "string"]],
    "BooleanList": ["list", "bool"],
}
SCALARS = {"string": "string", "number": "number", "boolean": "bool"}
OFTEN_COMPUTED = {"id", "name", "name_prefix", "region", "tags_all"}
NESTING = {"list": "list", "set": "set", "map": "map", "struct": "single"}

CLASS = re.compile(r"^class (\w+) extends cdk\w+\.(\w+) \{\n(.*?)^\}", re.S | re.M)
GETTER = re.compile(r"^    get (\w+)\(\) \{\n(.*?)^    \}", re.S | re.M)
ARGUMENT = re.compile(
    r'^\s+(\w+): \{\s*value: [^\n]*\n\s*isBlock: (\w+),\s*type: "(\w+)",\s*storageClassType: "(\w+)"', re.M
)
FIELD = r'this\._%s = new (cdk\w+\.)?(\w+)\(this, "(\w+)"'


class Typings:
    """The JavaScript of one resource: its classes by name, and the text to find functions in."""

    def __init__(self, source):
        self.source = source
        self.classes = {name: (base, body) for name, base, body in CLASS.findall(source)}

    def block(self, class_name, within=()):
        """The schema block that a class describes; `within` holds the classes around it, against endless nesting."""
        base, body = self.classes[class_name]
        is_top = base in ("TerraformResource", "TerraformDataSource", "TerraformProvider")
        arguments = self.arguments(class_name, body, is_top)
        attributes, blocks = {}, {}
        for camel, code in getters(body):
            name, kind, child = field(camel, code, body)
            required = name in arguments and not re.search(rf"^    reset{capital(camel)}\(", body, re.M)
            is_block, shape, storage = arguments.get(name, (False, None, None))
            if is_block:
                blocks[name] = self.nested_block(shape, storage, child, required, (*within, class_name))
            elif not (base == "TerraformProvider" and name == "alias"):
                attributes[name] = attribute(kind or argument_type(shape, storage), name in arguments, required)
                if is_top and base != "TerraformProvider" and name in OFTEN_COMPUTED and not required:
                    attributes[name]["computed"] = True
        return {"attributes": attributes, "block_types": blocks}

    def arguments(self, class_name, body, is_top):
        """Settable arguments: name to (is it a block, its shape, the class or scalar it stores)."""
        if is_top:
            text = section(body, "synthesizeHclAttributes()", "\n    }\n")
        else:
            function = re.sub(r"OutputReference$", "", class_name) + "ToHclTerraform"
            text = section(self.source, f"function {function[0].lower()}{function[1:]}(", "\n}\n")
        return {name: (block == "true", shape, storage) for name, block, shape, storage in ARGUMENT.findall(text)}

    def bare_block(self, struct):
        """A block that has a mapping but no class, as in the provider's configuration: all that it tells are types."""
        arguments = self.arguments(struct, "", is_top=False)
        return {
            "attributes": {
                name: attribute(argument_type(shape, storage), settable=True)
                for name, (is_block, shape, storage) in arguments.items()
                if not is_block
            },
            "block_types": {},
        }

    def nested_block(self, shape, storage, child, required, within):
        """One nested block; a field without a `List` class of its own occurs at most once."""
        inner = re.sub(r"(List|Map)$", "", child or storage)
        reference = inner if inner.endswith("OutputReference") else inner + "OutputReference"
        has_class = reference in self.classes and reference not in within
        nested = self.block(reference, within) if has_class else self.bare_block(inner)
        mode = NESTING.get(shape, "list")
        result = {"nesting_mode": mode, "block": nested}
        if required:
            result["min_items"] = 1
        if child and child.endswith("OutputReference") and mode in ("list", "set"):
            result["max_items"] = 1
        return result


def getters(body):
    """The getters that stand for attributes: not the library's own, and not the raw inputs beside them."""
    library = {"internalValue", "fqn", "friendlyUniqueId", "terraformMetaArguments"}
    return [(name, code) for name, code in GETTER.findall(body) if name not in library and not is_raw_input(name, code)]


def is_raw_input(name, code):
    """Whether a getter returns what was put into another one; `kinesis_streams_input` is an attribute of its own."""
    member = re.search(r"return this\._(\w+)", code)
    return name.endswith("Input") and member is not None and member[1] != name


def field(camel, code, body):
    """A getter's Terraform name, its type where the getter tells it, and the class of a nested value."""
    direct = re.search(r"this\.(\w+Attribute)\('(\w+)'\)", code)
    if direct:
        kind = GETTER_TYPES.get(direct[1])
        if kind and "Fn.tolist" in code:
            kind = ["set", kind[1]]
        return direct[2], kind, None
    member = re.search(r"return this\._(\w+)", code)
    made = member and re.search(FIELD % member[1], body)
    if not made:
        return re.sub(r"([A-Z])", lambda letter: "_" + letter[1].lower(), camel), None, None
    from_library, class_name, name = made.groups()
    return (name, FIELD_TYPES.get(class_name), None) if from_library else (name, None, class_name)


def argument_type(shape, storage):
    """The type that an argument's HCL mapping tells: a scalar, or a collection of scalars."""
    if shape == "simple":
        return SCALARS.get(storage, "dynamic")
    collection = re.fullmatch(r"(string|number|boolean)(List|Map)", storage or "")
    return [shape, SCALARS[collection[1]]] if collection else "dynamic"


def attribute(kind, settable, required=False):
    """An attribute's schema entry."""
    use = "required" if required else "optional" if settable else "computed"
    return {"type": kind, use: True}


def section(text, start, end):
    """The text from `start` up to the next `end`; empty when there is no `start`."""
    begin = text.find(start)
    return "" if begin < 0 else text[begin : text.index(end, begin) if end in text[begin:] else None]


def capital(name):
    return name[0].upper() + name[1:]


def without_dynamic(block, in_collection=False):
    """Terraform forbids untyped attributes inside sets and maps of blocks; there they become strings."""
    for entry in block["attributes"].values():
        if in_collection and entry["type"] == "dynamic":
            entry["type"] = "string"
    for nested in block["block_types"].values():
        without_dynamic(nested["block"], in_collection or nested["nesting_mode"] in ("set", "map"))
    return block


def folder_of(wanted):
    """The package's folder for a type: `aws_lb_listener` is in lb-listener, `data.aws_region` in data-aws-region."""
    return wanted.replace("data.", "data_").removeprefix("aws_").replace("_", "-")


def read_folders(archive, folders):
    """The JavaScript of each wanted folder, its files joined."""
    sources = dict.fromkeys(folders, "")
    with tarfile.open(archive) as package:
        for member in package:
            parts = member.name.split("/")
            if len(parts) > 3 and parts[1] == "lib" and parts[2] in sources and member.name.endswith(".js"):
                sources[parts[2]] += package.extractfile(member).read().decode()
    return sources


def block_of(source):
    """The block of the one resource, data source or provider that a folder's JavaScript declares."""
    main = re.search(r'^(\w+)\.tfResourceType = "\w+"', source, re.M)
    return without_dynamic(Typings(source).block(main[1])) if main else None


def main(archive, out, wanted):
    sources = read_folders(archive, ["provider", *map(folder_of, wanted)])
    schema = {"provider": block_of(sources["provider"]), "resource_schemas": {}, "data_source_schemas": {}}
    for name in wanted:
        block = block_of(sources[folder_of(name)])
        if block is None:
            print(f"schema.py: the typings know no {name}", file=sys.stderr)
        elif name.startswith("data."):
            schema["data_source_schemas"][name.removeprefix("data.")] = block
        else:
            schema["resource_schemas"][name] = block
    with open(out, "w", encoding="utf-8") as file:
        json.dump(schema, file)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
