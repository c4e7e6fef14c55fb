"""gRPC, blocking and for asyncio."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "1")  # read when gRPC is imported: a child opens channels of its own

import grpc
from tritonclient.grpc import service_pb2_grpc

from depthface.asking import Call
from depthface_client._transports.address import Address
from depthface_client._transports.base import AsyncTransport, closed, forget_in_children, no_answer
from depthface_client._transports.grpc_codec import CHANNEL_OPTIONS, GrpcCodec

__all__ = ["AsyncGrpcTransport", "GrpcTransport"]


class _Gate:
    """Lets no fork happen in the middle of a call: gRPC's handlers give up there, and the child's calls would hang.

    A fork waits until the calls under way have ended, and those that come meanwhile wait for the fork. Python's own
    `subprocess` is not concerned: it runs no handlers.
    """

    def __init__(self) -> None:
        self._reset()
        os.register_at_fork(before=self._close, after_in_parent=self._open, after_in_child=self._reset)

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._under_way = 0
        self._is_closed = False

    def _close(self) -> None:
        self._changed.acquire()
        self._changed.wait_for(lambda: not self._is_closed)  # of another thread's fork
        self._is_closed = True
        self._changed.wait_for(lambda: not self._under_way)

    def _open(self) -> None:
        self._is_closed = False
        self._changed.notify_all()
        self._changed.release()

    def __enter__(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_closed)
            self._under_way += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._under_way -= 1
            self._changed.notify_all()


_calls = _Gate()


class GrpcTransport:
    """See `base.Transport`."""

    def __init__(self, address: Address, admin_key: str | None) -> None:
        self._address = address
        self._codec = GrpcCodec(address, admin_key)
        self.reset()
        forget_in_children(self)

    def reset(self) -> None:
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None

    def close(self) -> None:
        with self._lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def send(self, call: Call, timeout_s: float) -> object:
        method, message, metadata = self._codec.request(call)
        try:
            with _calls:
                response = getattr(self._stub(), method)(message, timeout=timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            raise self._codec.error(call, error, timeout_s) from error
        except ValueError as error:  # the channel was closed by another thread
            raise no_answer(str(self._address), error) from error
        return self._codec.answer(call, response)

    def _stub(self) -> Any:
        with self._lock:
            if self._channel is None:
                self._channel = _channel(grpc, self._address)
            return service_pb2_grpc.GRPCInferenceServiceStub(self._channel)


class AsyncGrpcTransport(AsyncTransport):
    """See `base.AsyncTransport`."""

    def __init__(self, address: Address, admin_key: str | None, connections: int) -> None:
        self._address = address
        self._codec = GrpcCodec(address, admin_key)
        super().__init__(connections)

    async def send(self, call: Call, timeout_s: float) -> object:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(self.opened())
        method, message, metadata = await asyncio.to_thread(self._codec.request, call)
        try:
            async with self.turn:
                response = await getattr(stub, method)(message, timeout=timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            raise self._codec.error(call, error, timeout_s) from error
        except grpc.aio.UsageError as error:
            raise closed(str(self._address)) from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise closed(str(self._address)) from error  # a channel that is closed cancels its calls, not who waits
        return self._codec.answer(call, response)

    def _open(self) -> Any:
        return _channel(grpc.aio, self._address)


def _channel(library: Any, address: Address) -> Any:
    options = list(CHANNEL_OPTIONS)
    if address.tls:
        return library.secure_channel(address.netloc, grpc.ssl_channel_credentials(), options=options)
    return library.insecure_channel(address.netloc, options=options)
