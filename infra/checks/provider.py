"""A stand-in for the AWS provider: real schema, no cloud.

Serves the schema made by schema.py over Terraform's plugin protocol 6, so that `validate`, `plan` and `test` run
without the provider. It accepts every value of the right type and makes up what AWS would compute: unknown at plan,
a readable fake after apply. It calls nothing and stores nothing.

Usage: started by Terraform, with HEARTH_SCHEMA_JSON naming the schema.
"""

import base64
import json
import os
import sys
import tempfile
import threading
from concurrent import futures

import grpc
import msgpack
from tf.gen import grpc_controller_pb2 as controller
from tf.gen import grpc_controller_pb2_grpc as controller_rpc
from tf.gen import grpc_stdio_pb2_grpc as stdio_rpc
from tf.gen import tfplugin_pb2 as protocol
from tf.gen import tfplugin_pb2_grpc as protocol_rpc
from tf.runner import _self_signed_cert

UNKNOWN = msgpack.ExtType(0, b"\0")
NESTING = {"single": 1, "list": 2, "set": 3, "map": 4}
ACCOUNT = "123456789012"
EMPTY = {"string": "", "number": 1, "bool": False}


def schema_message(block):
    """A schema in the protocol's shape."""
    return protocol.Schema(version=0, block=block_message(block))


def block_message(block):
    attributes = [
        protocol.Schema.Attribute(
            name=name,
            type=json.dumps(entry["type"]).encode(),
            **{use: entry.get(use, False) for use in ("required", "optional", "computed")},
        )
        for name, entry in block["attributes"].items()
    ]
    blocks = [nested_message(name, entry) for name, entry in block["block_types"].items()]
    return protocol.Schema.Block(version=0, attributes=attributes, block_types=blocks)


def nested_message(name, entry):
    counted = entry["nesting_mode"] in ("list", "set")
    return protocol.Schema.NestedBlock(
        type_name=name,
        block=block_message(entry["block"]),
        nesting=NESTING[entry["nesting_mode"]],
        min_items=entry.get("min_items", 0) if counted else 0,
        max_items=entry.get("max_items", 0) if counted else 0,
    )


def decode(value):
    """A protocol value as Python; every kind of unknown becomes UNKNOWN."""
    if value.msgpack:
        return msgpack.unpackb(value.msgpack, ext_hook=lambda *_: UNKNOWN, raw=False, strict_map_key=False)
    return json.loads(value.json) if value.json else None


def encode(value):
    return protocol.DynamicValue(msgpack=msgpack.packb(value))


def fill(values, block, is_open, make):
    """Gives every computed attribute that `is_open` picks the value of `make(name, type)`."""
    for name, entry in block["attributes"].items():
        if entry.get("computed") and is_open(values.get(name)):
            values[name] = make(name, entry["type"])
    return values


def made_up(type_name):
    """What AWS might have answered: enough for references to resolve and to be told apart."""

    def make(name, kind):
        if name.endswith("arn"):
            return f"arn:aws:stand-in:us-east-1:{ACCOUNT}:{type_name}"
        if name == "json":
            return "{}"
        if kind == "string":
            return f"{type_name}-{name}"
        if isinstance(kind, list):
            return {} if kind[0] == "map" else []
        return EMPTY.get(kind)

    return make


class Provider(protocol_rpc.ProviderServicer):
    """The protocol's calls. Everything is valid; what is computed is unknown at plan and made up at apply."""

    def __init__(self, schema):
        self.provider = schema["provider"]
        self.resources = schema["resource_schemas"]
        self.data_sources = schema["data_source_schemas"]

    def GetProviderSchema(self, _request, _context):
        return protocol.GetProviderSchema.Response(
            provider=schema_message(self.provider),
            resource_schemas={name: schema_message(block) for name, block in self.resources.items()},
            data_source_schemas={name: schema_message(block) for name, block in self.data_sources.items()},
        )

    def ValidateProviderConfig(self, _request, _context):
        return protocol.ValidateProviderConfig.Response()

    def ValidateResourceConfig(self, _request, _context):
        return protocol.ValidateResourceConfig.Response()

    def ValidateDataResourceConfig(self, _request, _context):
        return protocol.ValidateDataResourceConfig.Response()

    def ConfigureProvider(self, _request, _context):
        return protocol.ConfigureProvider.Response()

    def UpgradeResourceState(self, request, _context):
        return protocol.UpgradeResourceState.Response(upgraded_state=encode(json.loads(request.raw_state.json)))

    def ReadResource(self, request, _context):
        return protocol.ReadResource.Response(new_state=request.current_state)

    def PlanResourceChange(self, request, _context):
        planned = decode(request.proposed_new_state)
        if planned is not None and decode(request.prior_state) is None:
            block = self.resources[request.type_name]
            fill(planned, block, lambda value: value is None, lambda *_: UNKNOWN)
        return protocol.PlanResourceChange.Response(planned_state=encode(planned))

    def ApplyResourceChange(self, request, _context):
        state = decode(request.planned_state)
        if state is not None:
            block = self.resources[request.type_name]
            fill(state, block, lambda value: value == UNKNOWN, made_up(request.type_name))
        return protocol.ApplyResourceChange.Response(new_state=encode(state))

    def ReadDataSource(self, request, _context):
        block = self.data_sources[request.type_name]
        state = fill(decode(request.config), block, lambda value: value is None, made_up(request.type_name))
        return protocol.ReadDataSource.Response(state=encode(state))

    def GetFunctions(self, _request, _context):
        return protocol.GetFunctions.Response()

    def StopProvider(self, _request, _context):
        return protocol.StopProvider.Response()


class Controller(controller_rpc.GRPCControllerServicer):
    """Ends the process when Terraform says so; the pause lets the answer out first."""

    def __init__(self, stop):
        self.stop = stop

    def Shutdown(self, _request, _context):
        threading.Timer(0.02, self.stop).start()
        return controller.Empty()


class Stdio(stdio_rpc.GRPCStdioServicer):
    """Terraform asks for a stream of output; there is none."""

    def StreamStdio(self, _request, _context):
        return iter([])


def serve(schema, folder):
    """Serves on a socket in `folder` and prints the handshake line that Terraform waits for."""
    server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.max_send_message_length", -1)])
    protocol_rpc.add_ProviderServicer_to_server(Provider(schema), server)
    controller_rpc.add_GRPCControllerServicer_to_server(Controller(lambda: server.stop(grace=None)), server)
    stdio_rpc.add_GRPCStdioServicer_to_server(Stdio(), server)
    address = os.path.join(folder, "provider.sock")
    certificate, credentials = _self_signed_cert()
    server.add_secure_port(f"unix://{address}", credentials)
    server.start()
    handshake = ["1", "6", "unix", address, "grpc", base64.b64encode(certificate).decode().rstrip("=")]
    print("|".join(handshake), flush=True)
    server.wait_for_termination()


def main():
    with open(os.environ["HEARTH_SCHEMA_JSON"], encoding="utf-8") as file:
        schema = json.load(file)
    with tempfile.TemporaryDirectory() as folder:
        serve(schema, folder)
    sys.stdout.flush()
    os._exit(0)  # the worker threads of a stopped server may linger; the folder is gone by now


if __name__ == "__main__":
    main()
