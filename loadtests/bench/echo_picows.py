"""The peer of `bench message`: a picows server that sends back what it receives, the fastest that Python has."""

import sys

import picows
import uvloop


class Echo(picows.WSListener):
    """Sends back each text."""

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """A frame came."""
        if frame.msg_type == picows.WSMsgType.TEXT:
            transport.send(picows.WSMsgType.TEXT, frame.get_payload_as_bytes())
        elif frame.msg_type == picows.WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()


async def serve(port: int) -> None:
    """Serve until killed."""
    server = await picows.ws_create_server(lambda _request: Echo(), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
