# A connected UDP socket, a timeout, three tries.
import socket
import sys

sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect(("127.0.0.1", int(sys.argv[1])))
sock.settimeout(1)
for line in sys.stdin:
    sentence = line.rstrip("\n")
    for _ in range(3):
        try:
            sock.send(sentence.encode())
            print("echo:", sock.recv(65535).decode())
            break
        except TimeoutError:
            print("no answer, once more")
    if sentence == "stop":
        break
