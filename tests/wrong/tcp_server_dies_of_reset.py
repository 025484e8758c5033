# Mistake: a client's reset ends the server.
import asyncio
import os
import sys


async def serve(reader, writer):
    try:
        while sentence := await reader.read(4096):
            print(sentence.decode(errors="replace"))
            writer.write(sentence)
            await writer.drain()
            if sentence.strip() in (b"stop", b"exit"):
                break
    except ConnectionResetError:
        os._exit(1)
    writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


asyncio.run(main())
