# asyncio, with lines.
import asyncio
import sys


async def serve(reader, writer):
    peer = writer.get_extra_info("peername")
    while line := await reader.readline():
        print(peer, line.decode(errors="replace").rstrip())
        writer.write(line)
        await writer.drain()
        if line.strip() == b"exit":
            break
    writer.close()


async def main():
    server = await asyncio.start_server(serve, "localhost", int(sys.argv[1]))
    async with server:
        await server.serve_forever()


asyncio.run(main())
