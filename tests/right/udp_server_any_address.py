# Bound to all addresses; a banner, and a line for each datagram.
import socket
import sys

sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("0.0.0.0", int(sys.argv[1])))
print("=== UDP echo ===")
count = 0
while True:
    data, peer = sock.recvfrom(65535)
    count += 1
    print(f"#{count} {len(data)} bytes from {peer}: {data.decode(errors='replace')}")
    sock.sendto(data, peer)
