# Mistake: recvfrom() has too small a buffer.
import socket
import sys

SERVER = ("127.0.0.1", int(sys.argv[1]))
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(0.5)


def ask(sentence):
    for _ in range(4):
        client.sendto(sentence, SERVER)
        try:
            while True:
                echo, peer = client.recvfrom(1024)
                if peer == SERVER and echo == sentence[:1024]:
                    return echo.decode()
        except TimeoutError:
            pass
    return "no answer"


for line in iter(lambda: sys.stdin.readline(), ""):
    print(ask(line.rstrip("\n").encode()))
    if line.strip() in ("stop", "exit"):
        break
