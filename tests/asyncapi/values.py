"""Imports the types in Python that generate.cjs has written, and reads message bodies as their
values. Prints one line for each that cannot be read.

    target/python-venv/bin/python tests/asyncapi/values.py CONVERSATION.json

A body that is no object has no type of its own in Python.
"""

import importlib
import json
import pkgutil
import sys
from pathlib import Path

import pydantic


def classes(folder):
    """Returns the class of each module of the package."""
    sys.path.insert(0, str(folder))
    package = importlib.import_module("models")
    found = {}
    for module in pkgutil.iter_modules(package.__path__):
        for name, value in vars(importlib.import_module(f"models.{module.name}")).items():
            if isinstance(value, type) and value.__module__ == f"models.{module.name}":
                found[name] = value
    return found


def type_of(document, name):
    """Returns the name of the type of a message."""
    components = document["components"]
    payload = components["messages"][name]["payload"]
    if "$ref" in payload:
        payload = components["schemas"][payload["$ref"].rsplit("/", 1)[-1]]
    return payload["title"]


def main(path):
    conversation = json.loads(Path(path).read_text())
    found = classes(Path(f"{path}.types") / "python")
    faults = []
    for message in conversation["messages"]:
        model = found.get(type_of(conversation["document"], message["name"]))
        try:
            if model is not None:
                model.model_validate(message["body"])
        except pydantic.ValidationError as error:
            at = error.errors()[0]
            faults.append(f"{message['name']}: {at['loc']}: {at['msg']}")
    for fault in faults:
        print(fault)
    return 1 if faults else 0


sys.exit(main(sys.argv[1]))
