# Mistake: a lost datagram is waited for for ever.
import socket
import sys

SERVER = ("127.0.0.1", int(sys.argv[1]))
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def ask(sentence):
    for _ in range(4):
        client.sendto(sentence, SERVER)
        try:
            while True:
                echo, peer = client.recvfrom(65507)
                if peer == SERVER and echo == sentence:
                    return echo.decode()
        except TimeoutError:
            pass
    return "no answer"


for line in iter(lambda: sys.stdin.readline(), ""):
    print(ask(line.rstrip("\n").encode()))
    if line.strip() in ("stop", "exit"):
        break
